"""A site's secret becomes a key that age takes: by BIP 173's own rule here, by age itself in molecule/backup."""

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from filter_plugins.age_identity import ALPHABET, GENERATORS, age_identity

secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=32)


def checks_out(text):
    """BIP 173: over prefix and data the checksum comes to one."""
    prefix, _, data = text.lower().rpartition("1")
    values = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    values += [ALPHABET.index(letter) for letter in data]
    state = 1
    for value in values:
        top, state = state >> 25, (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(GENERATORS):
            state ^= generator if top >> bit & 1 else 0
    return state == 1


@given(secret=secrets)
def test_it_has_the_form_of_a_key_of_age(secret):
    identity = age_identity(secret)
    assert identity.startswith("AGE-SECRET-KEY-1")
    assert len(identity) == 74
    assert checks_out(identity)


@given(one=secrets, other=secrets)
def test_one_secret_is_one_key(one, other):
    assert (age_identity(one) == age_identity(other)) == (one == other)


@pytest.mark.parametrize("value", ["", "x" * 31, None, 5])
def test_what_is_no_long_secret_is_refused(value):
    with pytest.raises(AnsibleFilterError):
        age_identity(value)
