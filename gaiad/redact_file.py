"""Rules and key of redaction as they lie on the disk.

Reads the rules that come with gaiad, adds the owner's, and keeps the key in a file of its own, so that no copy of the
database has it.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from gaiad.config import Config
from gaiad.disk import write_private
from gaiad.errors import StoreError
from gaiad.redact import Scrubber
from gaiad.redact_rules import Rules, parse_rules

RULES_FILE = Path(__file__).parent / "redact_rules.json"
KEY_BYTES = 32


def shipped_rules() -> Rules:
    """The rules that come with gaiad."""
    return parse_rules(RULES_FILE.read_text(encoding="utf-8"))


def load_scrubber(config: Config) -> Scrubber:
    """The scrubber of a daemon; its key is made where there is none.

    Raises:
        ConfigError: a name or a pattern of the owner's cannot be used.
        StoreError: the key can be neither read nor made.
    """
    rules = shipped_rules().with_own(config.redact.names, config.redact.patterns)
    return Scrubber(rules, _key(config.state_dir / "redact.key"))


def _key(path: Path) -> bytes:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size != KEY_BYTES:
            write_private(path, secrets.token_bytes(KEY_BYTES))
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}", hint="make state_dir writable") from error
