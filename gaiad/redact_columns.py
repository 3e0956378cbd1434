"""Secrets in tables: a column whose heading is the name of one, in lines parted by commas, semicolons, tabs or bars.

A rule sees one place of a text, and the name of a cell in a table stands lines above it. Touches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gaiad.redact_doubts import is_code, is_odd, is_place, is_secret_value
from gaiad.redact_view import View

_ABROAD = (
    "senha",
    "hasł",
    "hesl",
    "jelsz",
    "парол",
    "clave",
    "senord",
    "salasana",
    "密码",
    "パスワード",
    "pw",
    "code",
    "schl",
)
_NAMES = tuple((word, 0) for word in ("pass", "kenn", "wachtw", "contrase", "secret", "token", "key", "pin", *_ABROAD))
_CALLED = tuple((word, 0) for word in ("tel", "phone", "mobil", "handy", "fax"))
HEADINGS = frozenset(word for word, _ in (*_NAMES, *_CALLED))
"""What a table's heading has to hold, in small letters."""
_SECRET = re.compile(
    r"(?:[\w -]{0,20}[ _-])?(?:password|passwd|passwort|passphrase|passcode|pass|pwd|kennwort|wachtwoord|"
    r"contrase[ñn]a|"
    r"secret(?:[ _-]key)?|token|api[ _-]?key|pin|mot de passe|senha|hasło|heslo|jelszó|пароль|clave|lösenord|"
    r"passord|salasana|密码|"
    r"パスワード|pw|(?:door|alarm|access|tür|zugangs)[ _-]?code|(?:wi-?fi|wlan|netzwerk)[ _-]?(?:key|schlüssel))"
)
_PIN = re.compile(r"pin$|pass[pw]|code|kennw|wachtw|senha|hasło|heslo|jelsz|парол|clave|senord|salasana|密码|パスワ|pw")
_PHONE = re.compile(
    r"(?:[\w -]{0,20}[ _-])?(?:tel(?:efon\w{0,3}|ephone|éfono|éphone)?\.?|phone(?:[ _]n\w+)?|mobil\w{0,3}|handy|fax)"
)
_RULER = re.compile(r"[\s|:+-]*")
_INNER = re.compile(r'(?:[^\n]*[:\[,{("]\s?)?"(?=[^"\n]*$)')
_NUMBER = re.compile(r"[+(]?\d[\d\s()/.-]{5,20}")
_INSERTS = (("insert into", 0),)
_INSERT = re.compile(r"(?i)\binsert into\s[^\s(]{1,80}\s?\((?P<names>[^()]{1,400})\)\s{0,9}values\s{0,9}")
_VALUES = re.compile(r"\((?:[^()'\"\n]|'[^'\n]{0,400}'|\"[^\"\n]{0,400}\"){1,200}\)")
_VALUE = re.compile(r"\s{0,9}(?:[NE]?'(?P<v>[^'\n]{0,400})'|[^,'\"]{1,80})\s{0,9}(?:,|\Z)")
_LINE, _LINES, _NAME = 2000, 200, 40
_TRIMMED = " \t\r\"'*`"

Cell = tuple[int, int, str]
"""Where a cell's text begins and ends, and the type of what it holds."""


def cells(view: View) -> Iterator[Cell]:
    """The cells of secrets in a text's tables."""
    text = view.text
    if view.near(_INSERTS):
        yield from _inserted(view)
    if "\n" not in text or not view.may_hold_one(HEADINGS):
        return
    named = (view.has_odd_words and view.near(_NAMES)) or (view.may_hold_a_dialled_number and view.near(_CALLED))
    start, stop = 0, text.find("\n")
    while named and stop >= 0:
        after = text.find("\n", stop + 1)
        if 0 < stop - start <= _LINE:
            yield from _table(view, start, stop, len(text) if after < 0 else after)
        start, stop = stop + 1, after


def _inserted(view: View) -> Iterator[Cell]:
    """The values for columns of secrets in rows that are put into a database."""
    for found in _INSERT.finditer(view.text):
        kinds = [_kind(name.strip(_TRIMMED).lower()) for name in found["names"].split(",")]
        for row in _VALUES.finditer(view.text, found.end(), found.end() + _LINE) if any(kinds) else ():
            parts = list(_VALUE.finditer(view.text, row.start() + 1, row.end() - 1))
            for kind, part in zip(kinds, parts, strict=True) if len(parts) == len(kinds) else ():
                start, end = part.span("v")
                if kind and start >= 0 and _holds(view.text[start:end], kind):
                    yield start, end, "PASSWORD" if kind == "PIN" else kind


def _table(view: View, start: int, stop: int, after: int) -> Iterator[Cell]:
    """The cells of the table whose heading is from `start` to `stop`, if it is one; the next line ends at `after`."""
    text = view.text
    parting = _parting(text[start:stop])
    if parting is None or text.find(parting, stop, after) < 0:
        return
    heads = view.low[start:stop].split(parting)
    # What parts long pieces is a sentence; before the first there may be what a text of JSON begins with.
    if any(len(head) > _NAME for head in heads[1:]):
        return
    names = [head.strip(_TRIMMED).rpartition('"')[2].strip(_TRIMMED) for head in heads]
    kinds = {at: kind for at, name in enumerate(names) if (kind := _kind(name))}
    if not kinds:
        return
    # In a text of JSON the heading begins behind a quotation mark, and the last line ends at the next one.
    inner = _INNER.match(text, start, stop)
    before = text.count(parting, start, inner.end()) if inner else 0
    # A table's lines have as many cells as its heading has.
    if before + 1 < len(names) <= before + 1 + text.count(parting, stop, after):
        kinds = {at - before: kind for at, kind in kinds.items()}
        for row in _rows(text, stop + 1, '"' if inner else "\n"):
            yield from _in_row(text, row, parting, kinds, len(names) - before)


def _parting(line: str) -> str | None:
    for char in ("|", "\t", ";", ","):
        if char in line:
            return char
    return None


def _kind(name: str) -> str | None:
    if not 2 < len(name) <= _NAME:
        return None
    if _SECRET.fullmatch(name):
        return "PIN" if _PIN.search(name) else "PASSWORD"
    return "PHONE" if _PHONE.fullmatch(name) else None


def _rows(text: str, at: int, last: str) -> Iterator[tuple[int, int]]:
    for _ in range(_LINES):
        stop = text.find("\n", at)
        stop = len(text) if stop < 0 else stop
        end = text.find(last, at, stop)
        if stop <= at or stop - at > _LINE:
            return
        yield at, stop if end < 0 else end
        if end >= 0:
            return
        at = stop + 1


def _in_row(text: str, row: tuple[int, int], parting: str, kinds: dict[int, str], count: int) -> Sequence[Cell]:
    line = text[row[0] : row[1]]
    parts = line.split(parting)
    # A sentence with commas is no row, and the line below a heading holds nothing.
    if len(parts) != count or _RULER.fullmatch(line):
        return ()
    found, at = list[Cell](), row[0]
    for place, part in enumerate(parts):
        bare = part.strip(" \t\r\"'`")
        if (kind := kinds.get(place)) and _holds(bare, kind):
            start = at + part.index(bare)
            found.append((start, start + len(bare), "PASSWORD" if kind == "PIN" else kind))
        at += len(part) + 1
    return found


def _holds(text: str, kind: str) -> bool:
    if kind == "PHONE":
        return _NUMBER.fullmatch(text) is not None
    if kind == "PIN":
        return re.fullmatch(r"\d{4,12}", text) is not None or _holds(text, "PASSWORD")
    return is_secret_value(text) and is_odd(text) and not is_place(text) and not is_code(text) and " " not in text
