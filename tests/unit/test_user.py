"""Which texts may be somebody's name."""

from __future__ import annotations

import pytest

from gaiad.user import MAX_USER_CHARS, user_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ana", "ana"),
        (" ana b\t\n", "ana b"),
        ("ünï ☃ 🙂", "ünï ☃ 🙂"),
        ("x" * MAX_USER_CHARS, "x" * MAX_USER_CHARS),
        (" " + "x" * MAX_USER_CHARS, "x" * MAX_USER_CHARS),
        ("x" * (MAX_USER_CHARS + 1), None),
        ("a\0b", None),
        ("\ud800", None),
        ("a\udcff", None),
        ("", None),
        (" \t", None),
        (None, None),
    ],
)
def test_a_name_is_what_can_be_granted_kept_and_revoked_alike(text: str | None, name: str | None) -> None:
    assert user_name(text) == name
