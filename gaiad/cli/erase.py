"""`gaiadctl erase` and `gaiadctl erasures`: take back what was kept, down to the adapters that learned from it."""

from __future__ import annotations

import argparse

from gaiad.cli.command import Context, Subcommands, add
from gaiad.cli.output import FAILED, age, table
from gaiad.errors import Refuse

_PATIENCE_S = 900.0


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `erase` and `erasures`."""
    parser = add(
        commands, common, "erase", _erase, "Erase exchanges, and set aside the adapters that learned from them."
    )
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--user", metavar="USER", help="all that was kept of a user")
    named.add_argument("--conversation", metavar="ID", help="one conversation")
    named.add_argument("--exchange", metavar="ID", help="one exchange, by its X-Gaia-Request-Id")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would reach")
    listing = add(commands, common, "erasures", _list, "List erasures with their reports, newest first.")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="at most N (1 to 1000, default 20)")


def _erase(args: argparse.Namespace, context: Context) -> int:
    kinds = ("user", "conversation", "exchange")
    kind = next(kind for kind in kinds if getattr(args, kind) is not None)
    return erase_named(kind, getattr(args, kind), context, dry_run=args.dry_run)


def erase_named(kind: str, name: str, context: Context, *, dry_run: bool = False) -> int:
    """Have the daemon erase what is named, show the report, and return the exit code."""
    answer = context.client().post("erase", timeout_s=_PATIENCE_S, kind=kind, name=name, dry_run=dry_run or None)
    if isinstance(answer, Refuse):
        return context.terminal.refused(answer)
    code = context.terminal.show(answer, "\n".join(_lines(answer, done=not dry_run)))
    return code if dry_run or answer.get("signed_off") else FAILED


def _lines(report: dict[str, object], *, done: bool) -> list[str]:
    versions = _names(report, "versions")
    lines = [
        f"{'erased' if done else 'would erase'} {len(_names(report, 'exchange_ids'))} exchanges",
        f"  datasets removed: {len(_names(report, 'datasets'))}, runs removed: {len(_names(report, 'runs'))}",
        f"  adapter versions set aside: {', '.join(versions) or 'none'}",
    ]
    for row in report.get("backups") or ():  # type: ignore[attr-defined]
        lines.append(f"  a backup still holds it: {row['path']}" + ("" if row["there"] else " (not there any more)"))
    for path in _names(report, "unread"):
        lines.append(
            f"  a damaged store could not be looked through: {path} (nothing is signed off until you delete it)"
        )
    for place in _names(report, "beyond"):
        lines.append(f"  bytes of it may still be in {place}")
    if done:
        lines.append(f"  {'signed off' if report.get('signed_off') else 'NOT clean: ' + str(report.get('checks'))}")
        lines.append(f"  report {report.get('id')}, sha256 {report.get('sha256')}")
    return lines


def _names(report: dict[str, object], key: str) -> list[str]:
    found = report.get(key)
    rows = found if isinstance(found, list) else []
    return [str(row["version"]) if isinstance(row, dict) else str(row) for row in rows]


def _list(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("erasures", limit=args.limit)
    now = context.terminal.now
    rows = [
        (
            *(row.get("id"), age(row.get("at"), now), f"{row['asked']['kind']} {row['asked']['name']}"),
            *(row.get("phase"), len(_names(row, "exchange_ids")), len(_names(row, "versions"))),
            "yes" if row.get("signed_off") else "no",
        )
        for row in answer.get("erasures", [])
    ]
    head = ("ID", "WHEN", "OF", "PHASE", "EXCHANGES", "VERSIONS", "SIGNED OFF")
    return context.terminal.show(answer, table(head, rows))
