"""The names of users and conversations, the same for those who grant and for what is kept of them.

A name that could be kept but not granted or revoked would be a person without a say, so both sides ask here.
"""

from __future__ import annotations

import re

MAX_USER_CHARS = 200
MAX_CONVERSATION_CHARS = 1000
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def user_name(text: str | None) -> str | None:
    """The name that `text` means, without blanks around it; None where it is nobody's.

    Nobody's is what is blank, longer than `MAX_USER_CHARS`, or holds what the store cannot: zero bytes and halves of
    characters.
    """
    return _name(text, MAX_USER_CHARS)


def conversation_name(text: str | None) -> str | None:
    """The conversation that `text` means, by the same rule; None where nothing can be agreed to for it alone."""
    return _name(text, MAX_CONVERSATION_CHARS)


def is_revocable(conversation: str | None) -> bool:
    """Whether a conversation can be revoked for itself: where its name can be said, or there is none."""
    return conversation is None or conversation_name(conversation) is not None


def _name(text: str | None, longest: int) -> str | None:
    name = (text or "").strip()
    if not name or len(name) > longest or _UNUSABLE.search(name):
        return None
    return name
