"""The filter heroku_secret lets a value stand in the open only where it is plainly no secret."""

import itertools
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins.heroku_secret import heroku_secret

same = settings(deadline=None, derandomize=True, database=None)

PLAIN = {
    "DEBUG": "0",
    "EMPTY_KEY": "",
    "USE_AUTH": "true",
    "SECURE_SSL": "on",
    "TIMEOUT": "30",
    "RATE": "0.25",
    "LOG_LEVEL": "INFO",
    "AWS_REGION": "us-east-1",
    "BUCKET": "my-shop-media-2023",
    "DJANGO_SETTINGS_MODULE": "shop.settings.production",
    "ALLOWED_HOSTS": ".herokuapp.com, shop.example,www.shop.example",
    "SITE_URL": "https://shop.example/start",
    "CORS": "https://a.example https://b.example:8443",
    "MAIL_FROM": "info@shop.example",
    "ZONE": "Europe/Berlin",
    "DATA": "/srv/data/",
    "ANY": "*",
}
SECRET = {
    "SECRET_KEY": "abc",
    "STRIPE_PUBLISHABLE_KEY": "word",
    "GITHUB_TOKEN": "word",
    "db_password": "word",
    "SENTRY_DSN": "word",
    "GOOGLE_CREDENTIALS": "word",
    "BASIC_AUTH": "word",
    "BROKER": "amqp://user:word@host.example/x",
    "ELSEWHERE": "https://user@host.example/",
    "FEED": "https://host.example/?key=word",
    "HOOK_TARGET": "https://host.example/",
    "WHATEVER": "0a1b2c3d4e5f60718293",
    "LOGIN": "hunter2",
    "CASE": "xKqPzLmNaB",
    "ID": "550e8400-e29b-41d4-a716-446655440000",
    "JSON": '{"a": 1}',
    "PEM": "-----BEGIN\nabc\n-----END",
    "SPACED": " word",
    "LONG": "word-" * 30,
    "MANY": "1234567890",
}


@pytest.mark.parametrize(("name", "value"), PLAIN.items())
def test_what_is_plainly_no_secret_may_be_read(name, value):
    assert not heroku_secret(name, value)


@pytest.mark.parametrize(("name", "value"), SECRET.items())
def test_what_may_be_a_secret_is_one(name, value):
    assert heroku_secret(name, value)


@same
@given(st.text(string.ascii_letters + string.digits, min_size=24, max_size=64).filter(
    lambda text: sum(a.isdigit() != b.isdigit() for a, b in itertools.pairwise(text)) > 3
))  # fmt: skip
def test_a_random_token_is_a_secret_whatever_its_name(token):
    assert heroku_secret("NAME", token)


@same
@given(st.text(), st.text())
def test_any_name_and_value_are_judged(name, value):
    assert heroku_secret(name, value) in (True, False)
