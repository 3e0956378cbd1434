"""One cycle of json-architect at its full size: 1,000 train examples, 200 steps, 160 held-out requests.

    python -m bench.proof_full [--folder var/proof-full]

Starts a daemon of its own with the small model, lets it learn once with the `full` profile, and prints what the cycle
found. Takes a quarter of an hour on two cores. Exits 0 only if the candidate was promoted with the margins of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from examples.demo import said
from examples.demo_world import ROOT, World, empty_folder

ADAPTER = "json-architect"
MIN_GAIN = 0.20


def rows_of(cycle: dict[str, Any]) -> list[tuple[str, str]]:
    """The table's rows from a finished cycle."""
    report = cycle["report"]
    rows = [("verdict", f"{cycle['verdict']}: {cycle['reason']}")]
    for name, exam in report["exams"].items():
        for metric in ("tool", "params", "valid_json"):
            rows.append((f"{name}, {metric}", said(exam[metric])))
    if "candidate" in report["exams"]:
        rows.append(("best constant answer", said(report["exams"]["candidate"]["constant"])))
    rows.append(("dataset", json.dumps({k: v for k, v in report["dataset"].items() if k != "exchange_ids"})))
    training = report["training"] or {}
    kept = ("steps", "best_step", "train_loss", "validation_loss", "tokens", "computed_tokens", "wall_s", "layout")
    rows.append(("training", json.dumps({key: training.get(key) for key in kept})))
    rows.append(("seconds by phase", json.dumps(report["timings_s"])))
    return rows


def held(cycle: dict[str, Any]) -> bool:
    """Whether the candidate was promoted, 20 points above the base and above the best constant answer."""
    if cycle["verdict"] != "promoted":
        return False
    exams = cycle["report"]["exams"]
    base, candidate = exams["base"]["tool"], exams["candidate"]["tool"]
    constant = exams["candidate"]["constant"]
    return bool(candidate["rate"] - base["rate"] >= MIN_GAIN and candidate["low"] > constant["rate"])


def main() -> int:
    """Run the cycle and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "proof-full", help="emptied first")
    folder = parser.parse_args().folder.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the proof was ended"))
    empty_folder(folder)
    world, began = World(folder, profile="full"), time.monotonic()
    with world.running():
        world.wait_until_serving(600)
        cycle = world.ctl("train", ADAPTER, "--wait", may_fail=True)
    print(f"\n{os.cpu_count()} cores, {time.monotonic() - began:.0f} s in all")
    for name, value in rows_of(cycle):
        print(f"{name:38}{value}")
    return 0 if held(cycle) else 1


if __name__ == "__main__":
    sys.exit(main())
