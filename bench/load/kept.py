"""Whether a daemon's database holds what was acknowledged, and nothing by halves. Reads one file; changes none."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = Any

_ROWS = "SELECT request_id, request, response FROM exchange_contents"
_ORPHANS = """
SELECT request_id FROM exchange_contents LEFT JOIN exchanges USING (request_id) WHERE exchanges.request_id IS NULL
"""
_BARE = """
SELECT request_id FROM exchanges LEFT JOIN exchange_contents USING (request_id)
WHERE decision = 'kept' AND exchange_contents.request_id IS NULL
"""
_UNDECIDED = """
SELECT request_id FROM exchanges JOIN exchange_contents USING (request_id) WHERE decision <> 'kept'
"""
_UNANSWERED = """
SELECT request_id FROM exchanges JOIN exchange_contents USING (request_id) WHERE complete AND response IS NULL
"""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a client was told is durable: the texts that it sent and got."""

    request_id: str
    asked: str
    answered: str


def said_in(request: Json, response: Json) -> tuple[str | None, str | None]:
    """The user's text in a kept request and the assistant's in a kept reply; None where there is none."""
    asked = answered = None
    with contextlib.suppress(KeyError, IndexError, TypeError):
        asked = request["messages"][-1]["content"]
    with contextlib.suppress(KeyError, IndexError, TypeError):
        answered = response["choices"][0]["message"]["content"]
    return asked, answered


def wrong_with(path: Path, acknowledged: Iterable[Acknowledged]) -> list[str]:
    """All that is not as it was promised, a line each; empty where every promise is kept."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found = [f"the file: {line}" for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
            found += [
                f"{told}: {row[0]}"
                for query, told in (
                    (_ORPHANS, "content without its row"),
                    (_BARE, "a row that says kept, without content"),
                    (_UNDECIDED, "content with a row that does not say kept"),
                    (_UNANSWERED, "a complete reply that is not there"),
                )
                for row in connection.execute(query)
            ]
            kept, torn = _said(connection.execute(_ROWS))
    except sqlite3.Error as error:
        return [f"the file cannot be read: {error}"]
    return found + torn + [line for each in acknowledged if (line := _broken(each, kept)) is not None]


def _said(rows: Iterable[tuple[str, str | None, str | None]]) -> tuple[dict[str, Json], list[str]]:
    """Texts by request id, and a line for each content that does not parse."""
    kept, torn = {}, []
    for request_id, request, response in rows:
        try:
            kept[request_id] = said_in(json.loads(request or ""), json.loads(response or "null"))
        except ValueError:
            torn.append(f"content that is half-written: {request_id}")
    return kept, torn


def _broken(each: Acknowledged, kept: dict[str, Json]) -> str | None:
    if each.request_id not in kept:
        return f"acknowledged, but lost: {each.request_id}"
    asked, answered = kept[each.request_id]
    if (asked, answered) != (each.asked, each.answered):
        what = "request" if asked != each.asked else "reply"
        return f"acknowledged, but its {what} is another: {each.request_id}"
    return None


@contextlib.contextmanager
def as_left(path: Path, into: Path) -> Iterator[Path]:
    """A copy of a database as a process that died left it: the file and its write-ahead log, recovered on opening.

    The daemon's own recovery is left to the daemon. The index of the log is not copied, as after a power cut.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for each in (path, path.with_name(f"{path.name}-wal")):
        if each.exists():
            shutil.copyfile(each, into / each.name)
    try:
        yield into / path.name
    finally:
        shutil.rmtree(into)
