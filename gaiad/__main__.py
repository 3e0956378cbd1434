"""`gaiad --config FILE`: reads the settings and runs the daemon.

Turns every expected failure into one sentence on standard error and exit code 1; anything with a traceback is a bug.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gaiad.config import Config, parse_config
from gaiad.errors import ConfigError, GaiadError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gaiad`; returns the exit code: 0 after an orderly stop, 1 after a failure, 2 for wrong usage."""
    args = _parser().parse_args(argv)
    try:
        config = read_config(Path(args.config))
        if args.check:
            from gaiad.proxy.rulebook import load_rules

            load_rules(config)
            sys.stderr.write(f"{args.config} is valid\n")
            return 0
        # 1. Imported only now: a broken settings file is told at once.
        import uvloop

        from gaiad import daemon

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(daemon.run(config))
    except GaiadError as error:
        sys.stderr.write(one_line(error) + "\n")
        return 1
    except KeyboardInterrupt:
        return 130


def read_config(path: Path) -> Config:
    """Read and parse a settings file; relative paths in it count from its directory."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings {path}: {error.strerror}", hint="give an existing file to --config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the settings {path} are not UTF-8 text", hint="save the file as UTF-8") from error
    return parse_config(text, relative_to=path.absolute().parent)


def one_line(error: GaiadError) -> str:
    """What went wrong and what to try, in one line."""
    message = " ".join(error.message.split()).rstrip(".")
    return f"gaiad: {message}. Try: {' '.join(error.hint.split())}" if error.hint else f"gaiad: {message}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gaiad",
        description="Serve a local model and make it better at its owner's work while the owner sleeps.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="settings (TOML); see examples/gaiad.toml")
    parser.add_argument("--check", action="store_true", help="validate the settings and exit")
    parser.add_argument("--version", action="version", version=f"gaiad {_version()}")
    return parser


def _version() -> str:
    try:
        return version("gaiad")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
