"""A user's name: what may stand for a person, the same for those who grant and for what is kept of them.

A name that could be kept but not granted or revoked would be a person without a say, so both sides ask here.
"""

from __future__ import annotations

MAX_USER_CHARS = 200


def user_name(text: str | None) -> str | None:
    """The name that `text` means, without blanks around it; None where it is nobody's.

    Nobody's is what is blank, longer than `MAX_USER_CHARS`, or holds what the store cannot: zero bytes and halves of
    characters.
    """
    name = (text or "").strip()
    if not name or len(name) > MAX_USER_CHARS or any(char == "\0" or "\ud800" <= char <= "\udfff" for char in name):
        return None
    return name
