"""The filter apps_text changes one entry of the list and keeps the rest of the file."""

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from filter_plugins.apps_text import apps_text

TEXT = """\
# Our apps
apps:
  # The first
  - name: blog
    source: /srv/blog   # for now
    health_path: /health
    config:
      # never on a public site
      DEBUG: "0"
      KEPT: x

  - {name: wiki, source: /srv/wiki}
other: 1
"""


def test_an_app_more_leaves_every_line_as_it_was():
    after = apps_text(TEXT, {"name": "shop", "source": "/srv/shop", "config": {"A": "1"}})
    assert [line for line in after.splitlines() if line not in TEXT.splitlines()] == [
        "  - name: shop",
        "    source: /srv/shop",
        '      A: "1"',
    ]
    assert yaml.safe_load(after)["apps"][2]["config"] == {"A": "1"}


def test_an_app_that_is_there_keeps_its_remarks_and_what_the_entry_does_not_say():
    after = apps_text(TEXT, {"name": "blog", "source": "/srv/new", "config": {"DEBUG": "1", "NEW": "y"}})
    assert after == TEXT.replace("/srv/blog   # for now", "/srv/new   # for now").replace(
        'DEBUG: "0"', 'DEBUG: "1"'
    ).replace("KEPT: x\n", "KEPT: x\n      NEW: y\n")


def test_an_app_between_braces_takes_a_key():
    after = apps_text(TEXT, {"name": "wiki", "source": "/srv/wiki", "version": "v1"})
    assert "{name: wiki, source: /srv/wiki, version: v1}" in after


@pytest.mark.parametrize("text", ["", "# nothing\n", "apps:\n", "apps: []\n", "other: 1\n"])
def test_a_file_without_apps_gets_its_first(text):
    after = yaml.safe_load(apps_text(text, {"name": "shop", "source": "x"}))
    assert after["apps"] == [{"name": "shop", "source": "x"}]


def test_the_same_entry_changes_nothing():
    entry = {"name": "shop", "source": "x", "domains": ["a.b"], "processes": {"web": 2}, "config": {"A": "{{ b }}"}}
    once = apps_text(TEXT, entry)
    assert apps_text(once, entry) == once


def test_apps_that_are_no_list_are_refused():
    with pytest.raises(AnsibleFilterError, match="apps is no list"):
        apps_text("apps: {name: shop}\n", {"name": "shop", "source": "x"})
