"""Texts that name themselves: each canary says of which request or person it is, and in which slot it was put.

Pure. A canary is `zyrqu`, a letter for its kind and sixteen letters: seven for the number, two for the slot, seven that
prove it. So any of them is known on sight, whatever their number. It has no digits and no capitals, so that no rule of
redaction takes it for a secret; secrets are made here too, each with its number inside.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

MARK = "zyrqu"
LETTERS = "abcdefghijklmnop"
BODY = 16
LENGTH = len(MARK) + 1 + BODY
PEOPLE = 1 << 27
"""Numbers from here on are those of people; below they are those of requests."""
MOST_REQUESTS = 9_999_999
_NUMBER, _SLOT = 7, 2
_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


class Kind(StrEnum):
    """Who put it into the world; the letter after the mark."""

    SAID = "k"
    ANSWERED = "m"
    SECRET = "s"


@dataclass(frozen=True, slots=True, order=True)
class Canary:
    """What a canary says of itself. Of one that is torn the slot is -1, and so is the number where that is gone too."""

    kind: Kind
    number: int
    slot: int

    @property
    def is_torn(self) -> bool:
        """Whether only its beginning was found."""
        return self.slot < 0


class Flock:
    """All canaries of one run; `seed` is what proves them."""

    def __init__(self, seed: int) -> None:
        self._seed = str(seed).encode()
        self._read: dict[str, Canary | None] = {}

    def text(self, kind: Kind, number: int, slot: int) -> str:
        """The canary itself."""
        body = _spelt(number, _NUMBER) + _spelt(slot, _SLOT)
        return f"{MARK}{kind.value}{body}{_spelt(self._proof(body), BODY - _NUMBER - _SLOT)}"

    def said(self, number: int, slot: int) -> str:
        """One that a client says."""
        return self.text(Kind.SAID, number, slot)

    def read(self, found: str) -> Canary | None:
        """What was found, whole or torn; None where it is none of this flock."""
        # The same ones lie in many places: each is read, and held in memory, once.
        if found not in self._read:
            self._read[found] = self._read_anew(found)
        return self._read[found]

    def _read_anew(self, found: str) -> Canary | None:
        kind, body = found[len(MARK) : len(MARK) + 1], found[len(MARK) + 1 :]
        if len(body) < _NUMBER:
            return Canary(Kind(kind or Kind.SAID.value), -1, -1)
        number = _value(body[:_NUMBER])
        if len(body) < BODY:
            return Canary(Kind(kind), number, -1)
        proven = _spelt(self._proof(body[: _NUMBER + _SLOT]), BODY - _NUMBER - _SLOT) == body[_NUMBER + _SLOT :]
        return Canary(Kind(kind), number, _value(body[_NUMBER : _NUMBER + _SLOT])) if proven else None

    def card(self, number: int) -> str:
        """A payment card's number with the request's number inside, and a check digit."""
        digits = f"4929{number:07d}{self._digits(number, 4)}"
        return digits + str(_luhn_digit(digits))

    def phone(self, number: int) -> str:
        """A mobile number with the request's number inside."""
        return f"+49 157 {number:07d}{self._digits(number, 2)}"

    def api_key(self, person: int) -> str:
        """The key that a person presents, with their index as its id."""
        secret = hashlib.blake2b(f"key {person}".encode(), key=self._seed, digest_size=32).hexdigest()
        return f"gaia-{person:08x}-{secret}"

    def read_api_key(self, text: str) -> Canary | None:
        """Whose key it is; None where it is none of this run."""
        person = int(text[5:13], 16)
        return Canary(Kind.SECRET, PEOPLE + person, SecretSlot.API_KEY) if self.api_key(person) == text else None

    def read_card(self, digits: str) -> Canary | None:
        """The card of a request; None where it is none."""
        number = int(digits[4:11])
        return Canary(Kind.SECRET, number, SecretSlot.CARD) if self.card(number) == digits else None

    def read_phone(self, digits: str) -> Canary | None:
        """The phone of a request by the nine digits after its prefix; None where it is none."""
        number = int(digits[:7])
        return Canary(Kind.SECRET, number, SecretSlot.PHONE) if self._digits(number, 2) == digits[7:] else None

    def _proof(self, body: str) -> int:
        return int.from_bytes(hashlib.blake2b(body.encode(), key=self._seed, digest_size=8).digest())

    def _digits(self, number: int, count: int) -> str:
        return f"{self._proof(f'{number}') % 10**count:0{count}d}"


class SecretSlot:
    """Slots of secrets."""

    MAIL, KEY, CARD, PHONE, API_KEY = range(5)


def secret_text(flock: Flock, number: int, slot: int) -> str:
    """A secret of a request, in the shape that is its slot's."""
    match slot:
        case SecretSlot.CARD:
            digits = flock.card(number)
            return " ".join(digits[at : at + 4] for at in range(0, 16, 4)) if number % 2 else digits
        case SecretSlot.PHONE:
            return flock.phone(number)
        case SecretSlot.KEY:
            return f"sk-proj-4Tb{flock.text(Kind.SECRET, number, slot)}9Qx"
        case _:
            return f"{flock.text(Kind.SECRET, number, slot)}@post.example.org"


def answered(said: str) -> str:
    """What the engine makes of a client's canary."""
    return said[: len(MARK)] + Kind.ANSWERED.value + said[len(MARK) + 1 :]


SAID = re.compile(rf"{MARK}{Kind.SAID.value}[a-p]{{{BODY}}}")


# --- the forms in which one may lie somewhere ----------------------------------------------------------------------


def as_json_escapes(text: str) -> str:
    """Each character as `\\uXXXX`."""
    return "".join(f"\\u{ord(char):04x}" for char in text)


def as_percent(text: str) -> str:
    """Each character as `%XX`."""
    return "".join(f"%{ord(char):02X}" for char in text)


FORMS: Mapping[str, Callable[[str], bytes]] = {
    "raw": lambda text: text.encode(),
    "JSON escapes": lambda text: as_json_escapes(text).encode(),
    "JSON escapes within JSON": lambda text: (
        as_json_escapes(text).replace("\\", "\\\\").upper().replace("U", "u").encode()
    ),
    "percent": lambda text: as_percent(text).encode(),
    "percent, in small letters, twice": lambda text: as_percent(as_percent(text)).lower().encode(),
    "percent of JSON escapes": lambda text: as_percent(as_json_escapes(text)).encode(),
    "UTF-16, little end first": lambda text: text.encode("utf-16-le"),
    "UTF-16, big end first": lambda text: text.encode("utf-16-be"),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64, one byte on": lambda text: base64.b64encode(b"." + text.encode()),
    "base64, two bytes on": lambda text: base64.urlsafe_b64encode(b"??" + text.encode() + b"??"),
}
"""Every form that the search must see through."""


def _spelt(value: int, letters: int) -> str:
    return "".join(LETTERS[value >> 4 * place & 15] for place in range(letters))


def _value(letters: str) -> int:
    return sum(LETTERS.index(letter) << 4 * place for place, letter in enumerate(letters))


def _luhn_digit(digits: str) -> int:
    total = sum(_LUHN_DOUBLED[int(d)] if at % 2 == 0 else int(d) for at, d in enumerate(reversed(digits)))
    return -total % 10
