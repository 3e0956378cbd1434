"""The fake engine's command line: the real one's flags as far as they matter, and what tests set."""

from __future__ import annotations

import argparse
import json
from typing import Any

Json = Any


def _fault_option(text: str) -> tuple[str, Json]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value or "true")
    except ValueError:
        return name, value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; what only the real server knows is ignored."""
    parser = argparse.ArgumentParser(prog="tests.fakes.vllm", allow_abbrev=False)
    parser.add_argument("-m", dest="module", help="ignored")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7777)
    parser.add_argument("--model", default="fake-base")
    parser.add_argument("--served-model-name", nargs="*")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--fake-version", default="0.32.0")
    parser.add_argument("--start-delay-s", type=float, default=0.0, help="unhealthy for so long after the start")
    parser.add_argument("--listen-delay-s", type=float, default=0.0, help="not listening for so long after the start")
    parser.add_argument("--no-runtime-lora", action="store_true")
    parser.add_argument("--no-dev-mode", action="store_true")
    parser.add_argument("--any-lora-path", action="store_true", help="load adapters whose folder does not exist")
    parser.add_argument("--exit-at-start", type=int, default=None, help="end at once with this exit code")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--fault", dest="faults", action="append", type=_fault_option, default=[])
    options, _ = parser.parse_known_args(arguments)
    return options
