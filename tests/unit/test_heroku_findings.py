"""The filter heroku_findings names the lines that lean on Heroku, and no others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins.heroku_findings import heroku_findings

same = settings(deadline=None, derandomize=True, database=None)


def looks(line, path="shop/settings.py"):
    return [found["what"] for found in heroku_findings({path: line})["look"]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('if "DYNO" in os.environ:', "reads DYNO"),
        ("memory = os.environ['DYNO_RAM']", "reads DYNO"),
        ('port = int(os.environ.get("PORT", 5000))', "reads PORT"),
        ('release = os.getenv("HEROKU_SLUG_COMMIT")', "dyno metadata"),
        ("dj_database_url.config(ssl_require=True)", "asks for TLS"),
        ('OPTIONS = {"sslmode": "require"}', "asks for TLS"),
        ("django_heroku.settings(locals())", "asks for TLS"),
        ('broker = "rediss://x"', "asks for TLS"),
        ("for user in users.iterator():", "session of PostgreSQL"),
        ("SELECT pg_try_advisory_lock(1)", "session of PostgreSQL"),
        ("MEDIA_ROOT = BASE_DIR / 'media'", "writes to the disk"),
        ('with open("out.csv", "w") as file:', "writes to the disk"),
        ('path.write_text("x")', "writes to the disk"),
        ('DATABASES = env.db(default="sqlite:///db.sqlite3")', "writes to the disk"),
        ('ROOT = "/app/data"', "writes to the disk"),
    ],
)
def test_a_line_that_needs_a_look(line, said):
    assert [said in what for what in looks(line)] == [True]


@pytest.mark.parametrize(
    "line",
    [
        "# DYNO is set on Heroku: 'DYNO'",
        "REPORT = os.environ['REPORT']",
        "EXPORTS = 3",
        'with open("in.csv") as file:',
        'with open("in.csv", "rb") as file:',
        "dynamic = 1",
    ],
)
def test_a_line_that_needs_none(line):
    assert looks(line) == []


def test_a_procfile_that_hands_port_on_needs_no_look_and_a_script_that_reads_it_does():
    assert looks("web: gunicorn shop.wsgi --bind 0.0.0.0:$PORT", "Procfile") == []
    assert len(looks("exec uvicorn shop:app --port ${PORT}", "bin/web")) == 1


@pytest.mark.parametrize(
    "path", ["tests/test_x.py", "shop/tests/x.py", "docs/x.py", "image.png", "shop/migrations/1.py"]
)
def test_what_is_no_code_of_the_app_is_passed_over(path):
    assert looks('x = os.environ["DYNO"]', path) == []


def test_an_app_that_is_made_for_a_pool_needs_no_look():
    files = {"a.py": "for user in users.iterator():", "settings.py": "DISABLE_SERVER_SIDE_CURSORS = True"}
    assert heroku_findings(files)["look"] == []


def test_places_are_file_and_line_and_not_endless():
    found = heroku_findings({"a.py": "\n" + 'x = "DYNO"\n' * 8})["look"]
    assert found[0]["where"] == ["a.py:2", "a.py:3", "a.py:4", "a.py:5", "a.py:6", "and 3 more"]


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ('X = os.environ["API_URL"]', True),
        ('X = env("API_URL")', True),
        ('X = env.str("API_URL")', True),
        ('X = config("API_URL", cast=int)', True),
        ('X = os.environ.get("API_URL")', False),
        ('X = env("API_URL", default="")', False),
        ('X = config("API_URL", default=1, cast=int)', False),
        ('os.environ["API_URL"] = "x"', False),
    ],
)
def test_a_name_that_is_read_without_a_default_is_needed(line, needed):
    found = heroku_findings({"a.py": line})
    assert found["reads"] == {"API_URL": ["a.py:1"]}
    assert found["needs"] == ({"API_URL": ["a.py:1"]} if needed else {})


def test_what_the_site_gives_is_not_asked_for():
    assert heroku_findings({"a.py": 'os.environ["DATABASE_URL"], os.environ["PORT"]'})["needs"] == {}


@same
@given(st.dictionaries(st.text(), st.text()))
def test_any_source_can_be_looked_at(files):
    assert set(heroku_findings(files)) == {"look", "reads", "needs"}
