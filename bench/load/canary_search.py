"""Looks through bytes for canaries and secrets in every form, in one pass. Reads files; knows nothing of consent."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.canary import BODY, LENGTH, MARK, Canary, Flock

CHUNK = 8 * 1024 * 1024
OVERLAP = 16 * 1024
"""Longer than any form of a canary, so that none falls between two chunks."""
_DEEPEST = 4
_ESCAPE = 16
"""No escape of one letter is longer."""

_TOKEN = re.compile(rf"{MARK}(?:[kms][a-p]{{0,{BODY}}})?".encode())
_JSON = re.compile(rb"\\+u00([0-9a-fA-F]{2})")
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")
_WIDE = re.compile(b"\0".join(bytes([byte]) for byte in MARK.encode()) + rb"\0[kms](?:\0[a-p]){%d}" % BODY)
_CARD = re.compile(rb"(?<!\d)4929[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}(?!\d)")
_PHONE = re.compile(rb"49[ -]?157[ -]?(\d{9})(?!\d)")
_API_KEY = re.compile(rb"gaia-[0-9a-f]{8}-[0-9a-f]{64}")
_NOT_DIGITS = re.compile(rb"\D")


def _base64_of_mark() -> re.Pattern[bytes]:
    """What the mark is in base64 whatever stands before it, as far as it alone decides that."""
    fixed = []
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + MARK.encode())
        first, last = -(-before * 8 // 6), (before + len(MARK)) * 8 // 6
        fixed.append(b"(?P<after%d>%s)" % (before, re.escape(whole[first:last])))
    return re.compile(b"|".join(fixed))


_BASE64 = _base64_of_mark()
_BASE64_LENGTH = 4 * (LENGTH // 3 + 2)
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(slots=True)
class Seen:
    """What was found in one place, and how many bytes were looked through."""

    canaries: set[Canary] = field(default_factory=set)
    size: int = 0

    def add(self, other: Seen) -> None:
        """Take in what was found elsewhere of the same place."""
        self.canaries |= other.canaries
        self.size += other.size


class Search:
    """Finds what is one flock's."""

    def __init__(self, flock: Flock) -> None:
        self._flock = flock

    def in_tree(self, folder: Path) -> Iterator[tuple[Path, Seen]]:
        """Every file below `folder`; its own path counts too, as names of files are bytes on a disk."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                seen = self.in_file(path)
                seen.canaries |= self.in_bytes(str(path.relative_to(folder)).encode())
                yield path, seen

    def in_file(self, path: Path) -> Seen:
        """One file, as it stands."""
        seen = Seen()
        with path.open("rb") as file:
            kept = b""
            while fresh := file.read(CHUNK):
                seen.size += len(fresh)
                chunk = kept + fresh
                seen.canaries |= self.in_bytes(chunk, goes_on=len(fresh) == CHUNK)
                kept = chunk[-OVERLAP:]
        return seen

    def in_bytes(self, data: bytes, *, goes_on: bool = False) -> set[Canary]:
        """Whole ones and torn ones; with `goes_on` what is cut by the end is left to the bytes that follow."""
        plain = decoded(data)
        found = {match[0] for match in _TOKEN.finditer(plain) if not (goes_on and _is_cut(match, len(plain)))}
        found |= {match[0].replace(b"\0", b"") for match in _WIDE.finditer(data)}
        found |= set(_out_of_base64(data))
        canaries = {canary for text in found if (canary := self._flock.read(text.decode())) is not None}
        return canaries | set(self._numbers(plain))

    def _numbers(self, plain: bytes) -> Iterator[Canary]:
        """Secrets that have no mark: digits, and keys of the proxy."""
        cards = (self._flock.read_card(_NOT_DIGITS.sub(b"", one).decode()) for one in set(_CARD.findall(plain)))
        phones = (self._flock.read_phone(one.decode()) for one in set(_PHONE.findall(plain)))
        keys = (self._flock.read_api_key(one.decode()) for one in set(_API_KEY.findall(plain)))
        yield from (one for one in (*cards, *phones, *keys) if one is not None)


def decoded(data: bytes) -> bytes:
    """The bytes with escapes of JSON and percent signs taken away, those within others too.

    A canary that is not escaped stays whole: it has neither a backslash nor a percent sign, and begins with no digit.
    """
    for _ in range(_DEEPEST):
        before = data
        if b"%" in data:
            data = _PERCENT.sub(_byte, data)
        if b"u00" in data:
            data = _JSON.sub(_byte, data)
        if data == before:
            break
    return data


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def _is_cut(match: re.Match[bytes], end: int) -> bool:
    # What follows may be the beginning of one more escaped letter.
    return match.end() >= end - _ESCAPE and match.end() - match.start() < LENGTH


def _out_of_base64(data: bytes) -> Iterable[bytes]:
    for match in _BASE64.finditer(data):
        before = int((match.lastgroup or "after0")[-1])
        # The mark's first whole character stands so far into its group of four.
        start = match.start() - (-(-before * 8 // 6))
        if start < 0:
            continue
        word = data[start : start + _BASE64_LENGTH].translate(_TO_STANDARD)
        try:
            raw = base64.b64decode(word[: len(word) // 4 * 4], validate=False)
        except binascii.Error:
            continue
        token = _TOKEN.search(raw)
        if token is not None and len(token[0]) == LENGTH:
            yield token[0]
