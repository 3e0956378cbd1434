"""`gaiadctl config`: checks a settings file, and the stage rules it names, without a daemon."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.config import Config, parse_config
from gaiad.errors import ConfigError


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `config check`."""
    group = add_group(commands, "config", "Check settings, without a daemon.")
    add(group, common, "check", _check, "Check a settings file and name every mistake.").add_argument(
        "file", metavar="FILE"
    )


def _check(args: argparse.Namespace, context: Context) -> int:
    from gaiad.proxy.rulebook import load_rules, rules_file, skipped_text

    path = Path(args.file)
    config = read_settings(path)
    rules = load_rules(config)
    plain = json.loads(json.dumps(asdict(config), default=str))
    plain["store"]["url"] = config.store.place
    plain["rules"] = {
        "file": str(rules_file(config)),
        "count": len(rules.rules),
        "skipped": [{"rule": rule.id, "stage": rule.stage} for rule in rules.skipped],
    }
    summary = (
        f"{path} is valid: proxy at {config.proxy.listen}, {config.engine.mode} engine at {config.engine.url}, "
        f"learning {'on' if config.learning.enabled else 'off'}, {len(rules.rules)} stage rules, "
        f"state in {config.state_dir}"
    )
    if rules.skipped:
        summary += f"\nskipped, since their stages are not in [stages]: {skipped_text(rules)}"
    return context.terminal.show(plain, summary)


def read_settings(path: Path) -> Config:
    """Read and parse a settings file; relative paths in it count from its folder."""
    return parse_config(read_text(path), relative_to=path.absolute().parent)


def read_text(path: Path) -> str:
    """Read a file that a person named.

    Raises:
        ConfigError: it cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8") from error
