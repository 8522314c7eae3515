"""The file of apps is shown without what is secret in it."""

import pytest

from filter_plugins.apps_shown import apps_shown

TEXT = """\
apps:
  - name: shop  # the first
    source: https://deploy:planted@git.example/shop.git
    config:
      LOG_LEVEL: INFO
      API_TOKEN: planted
      QUOTED_KEY: "planted \\" twice"
      REFERRED_KEY: "{{ vault_shop_key }}"
      LONG_KEY: >-
        planted
        in lines
      COLOR: blue
  - {name: blog, source: examples/errorlog, config: {API_KEY: planted, SIZE: '2'}}
"""


def test_a_secret_is_covered_and_all_else_stays():
    assert (
        apps_shown(TEXT)
        == """\
apps:
  - name: shop  # the first
    source: https://…@git.example/shop.git
    config:
      LOG_LEVEL: INFO
      API_TOKEN: (secret)
      QUOTED_KEY: (secret)
      REFERRED_KEY: "{{ vault_shop_key }}"
      LONG_KEY: (secret)
      COLOR: blue
  - {name: blog, source: examples/errorlog, config: {API_KEY: (secret), SIZE: '2'}}
"""
    )


@pytest.mark.parametrize("text", ["", "apps: []\n", "apps: none\n", "other: 1\n", "- a\n", "apps:\n  - name: shop\n"])
def test_what_holds_no_config_stays(text):
    assert apps_shown(text) == text
