"""Whether an erasure reached all of it and nothing else. Reads a state directory that no daemon uses; changes none."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.load.lived import ERASED, EXCHANGES, LEARNED_FROM, Lived, dataset_digest
from gaiad.learner.artifacts import WEIGHTS


def found_in(folder: Path, words: Iterable[bytes]) -> dict[bytes, list[str]]:
    """In which plain files below `folder` each of these words stands, as raw bytes."""
    texts = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {word: [str(path) for path, text in texts.items() if word in text] for word in words}


def wrong_with(lived: Lived, without: str) -> list[str]:
    """All that is not as it should be after the erasure, a line each. `without` is the digest without the user."""
    found = [
        f"{word.decode()} still stands in {', '.join(places)}"
        for word, places in found_in(lived.folder, lived.canaries).items()
        if places
    ]
    database = lived.folder / "state" / "gaiad.db"
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as link:
        found += [f"the file: {line}" for (line,) in link.execute("PRAGMA integrity_check") if line != "ok"]
        found += _wrong_rows(link, lived) + _wrong_versions(link, lived) + _wrong_reports(link, lived)
    # As raw bytes too, but only some of them: each costs a search of everything.
    some = lived.others[:: max(1, len(lived.others) // 50)]
    found += [f"{word.decode()} is gone" for word, places in found_in(lived.folder, some).items() if not places]
    if (digest := dataset_digest(lived.folder)) != without:
        found.append(f"the dataset made anew has the digest {digest[:12]}, without the user it is {without[:12]}")
    return found


def _wrong_rows(link: sqlite3.Connection, lived: Lived) -> list[str]:
    rows = link.execute("SELECT user, request, response FROM exchange_contents").fetchall()
    texts = "".join(f"{request}{response}" for user, request, response in rows if user != ERASED).encode()
    said = [word for word in lived.others if b"corrected" not in word]
    found = [f"{word.decode()} is gone from the rows" for word in said if word not in texts]
    mine = sum(user == ERASED for user, _, _ in rows)
    if mine:
        found.append(f"{mine} rows of the erased user are left")
    if len(rows) - mine != lived.others_exchanges:
        found.append(f"{len(rows) - mine} exchanges of others, not {lived.others_exchanges}")
    return found


def _wrong_versions(link: sqlite3.Connection, lived: Lived) -> list[str]:
    found = []
    rows = {version: (stage, Path(path)) for version, stage, path in link.execute(_VERSIONS)}
    for version, wanted in lived.stages.items():
        stage, path = rows.pop(version, ("missing", Path()))
        if stage != wanted:
            found.append(f"{version} is {stage}, not {wanted}")
        if (path / WEIGHTS).exists() == (version in lived.stained):
            found.append(f"the weights of {version} are {'still there' if version in lived.stained else 'gone'}")
    return [*found, *(f"{version} was not there before" for version in rows)]


def _wrong_reports(link: sqlite3.Connection, lived: Lived) -> list[str]:
    rows = link.execute("SELECT phase, ended, report FROM erasures ORDER BY at").fetchall()
    reports: list[Mapping[str, Any]] = [json.loads(report) for _, _, report in rows]
    found = [f"an erasure is {phase}, not done" for phase, ended, _ in rows if phase != "done" or ended is None]
    found += [f"an erasure is not signed off: {one.get('checks')}" for one in reports if not one.get("signed_off")]
    named = {row["version"] for one in reports for row in one.get("versions", ())}
    if named != lived.stained:
        found.append(f"the report names {sorted(named)}, not {sorted(lived.stained)}")
    went = [_went(one) for one in reports if one["exchange_ids"]]
    if went != [_WENT]:
        found.append(f"the reports say that {went} went, not {_WENT}")
    return found


def _went(report: Mapping[str, Any]) -> list[int]:
    rows = report.get("rows", {})
    places = [len(report.get(what, ())) for what in ("datasets", "runs", "weights")]
    return [len(report["exchange_ids"]), rows.get("exchange_contents", 0), rows.get("feedback", 0), *places]


# Exchanges, their contents and corrections, and for each version its dataset, its run and its weights.
_WENT = [EXCHANGES, EXCHANGES, *[LEARNED_FROM] * 4]
_VERSIONS = "SELECT version, stage, path FROM adapter_versions"
