"""Reads the stage rules: the file that the settings name, or the one that comes with gaiad.

Touches that one file; what a rule means is `recognition`'s.
"""

from __future__ import annotations

from pathlib import Path

from gaiad.config import Config
from gaiad.errors import ConfigError
from gaiad.proxy.recognition import Rules, parse_rules
from gaiad.proxy.stages import known_stages

SHIPPED = Path(__file__).with_name("stage_rules.json")


def load_rules(config: Config) -> Rules:
    """Read and parse the rules for the stages of `config`.

    Raises:
        ConfigError: naming the file and every problem in it.
    """
    path = rules_file(config)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the stage rules {path}: {error.strerror}", hint="mend proxy.stage_rules"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the stage rules {path} are not UTF-8 text", hint="save the file as UTF-8") from error
    try:
        return parse_rules(text, known_stages(config.stages))
    except ConfigError as error:
        raise ConfigError(f"stage rules {path}: {error.message}", hint=error.hint) from error


def rules_file(config: Config) -> Path:
    """Which file holds the rules."""
    return Path(config.proxy.stage_rules) if config.proxy.stage_rules else SHIPPED


def skipped_text(rules: Rules) -> str:
    """Which rules are skipped because this configuration lacks their stage; empty for none."""
    return ", ".join(f"{rule.id} (stage {rule.stage})" for rule in rules.skipped)
