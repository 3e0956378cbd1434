"""`gaiadctl config`: checks a settings file without a daemon."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.config import parse_config
from gaiad.errors import ConfigError


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `config check`."""
    group = add_group(commands, "config", "Check settings, without a daemon.")
    add(group, common, "check", _check, "Check a settings file and name every mistake.").add_argument(
        "file", metavar="FILE"
    )


def _check(args: argparse.Namespace, context: Context) -> int:
    path = Path(args.file)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8") from error
    config = parse_config(text, relative_to=path.absolute().parent)
    plain = json.loads(json.dumps(asdict(config), default=str))
    summary = (
        f"{path} is valid: proxy at {config.proxy.listen}, {config.engine.mode} engine at {config.engine.url}, "
        f"learning {'on' if config.learning.enabled else 'off'}, state in {config.state_dir}"
    )
    return context.terminal.show(plain, summary)
