"""`gaiadctl keys`: who may use the proxy. Edits the file of keys; no daemon is asked, and a running one notices."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaiad.cli.command import Context, Subcommands, absolute, add, add_group
from gaiad.cli.config import read_settings
from gaiad.cli.output import age, table
from gaiad.config import Config
from gaiad.errors import ConfigError, Refuse
from gaiad.keys import Key, Keyring, consent_of, key_name, stages_of

SYSTEM_SETTINGS = "/etc/gaiad/gaiad.toml"


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `keys add|list|revoke`."""
    group = add_group(commands, "keys", "Give out, list and revoke API keys of the proxy, without a daemon.")
    new = add(
        group,
        common,
        "add",
        _add,
        "Give out a key and show it once. NAME is who its requests are from. From the first key on the proxy serves "
        f"nobody without one. The file of keys is that of --config, else of {SYSTEM_SETTINGS}.",
    )
    new.add_argument("name", metavar="NAME")
    new.add_argument("--stages", metavar="A,B", help="the only stages it may be used for; else all")
    new.add_argument(
        "--consent",
        metavar="PURPOSES",
        help="none, or a comma list of log, train, evaluate: the most its exchanges are kept for, of what NAME granted",
    )
    new.set_defaults(usage_error=new.error)
    add(group, common, "list", _list, "List the keys, without their secrets.")
    gone = add(group, common, "revoke", _revoke, "Revoke a key. The next request with it is refused.")
    gone.add_argument("name", metavar="NAME")


def _add(args: argparse.Namespace, context: Context) -> int:
    from gaiad.keyfile import change_keys, new_key

    config, path = _place(args)
    if key_name(args.name) is None:
        args.usage_error("NAME must be text of at most 200 characters, without blanks around it")
    consent = None if args.consent is None else consent_of(args.consent)
    if args.consent is not None and consent is None:
        args.usage_error("--consent must be none, or a comma list of log, train and evaluate")
    stages = None if args.stages is None else stages_of(args.stages, {*config.stages, "base"})
    key, text = new_key(args.name, stages=stages, consent=consent, created=context.terminal.now)
    taken: list[Key] = []

    def with_new(ring: Keyring) -> Keyring:
        # Under the file's lock: two at once must not both find the name free.
        taken.extend(filter(None, [ring.named(key.name)]))
        return ring if taken else ring.with_key(key)

    change_keys(path, with_new)
    if taken:
        return context.terminal.refused(
            Refuse(f"{key.name} has a key already", "revoke it first, or take another name")
        )
    shown = f"{text}\n\nThis is {key.name}'s key. It is shown only now; {path} keeps no more than its hash."
    return context.terminal.show({**_plain(key), "key": text, "file": str(path)}, shown)


def _list(args: argparse.Namespace, context: Context) -> int:
    from gaiad.keyfile import read_keys

    _, path = _place(args)
    ring = read_keys(path)
    keys = sorted((ring or Keyring()).keys.values(), key=lambda key: key.name)
    answer = {"file": str(path), "wanted": ring is not None, "keys": [_plain(key) for key in keys]}
    if ring is None:
        return context.terminal.show(answer, "There are no keys, and the proxy asks for none.")
    rows = [
        (key.name, key.id, _listed(key.stages, "all"), _listed(key.consent, "as granted"), age(key.created, now))
        for now in (context.terminal.now,)
        for key in keys
    ]
    return context.terminal.show(answer, table(("NAME", "ID", "STAGES", "CONSENT", "MADE"), rows))


def _revoke(args: argparse.Namespace, context: Context) -> int:
    from gaiad.keyfile import change_keys, read_keys

    _, path = _place(args)
    key = (read_keys(path) or Keyring()).named(args.name)
    if key is None:
        return context.terminal.refused(Refuse(f"there is no key of {args.name}", "see gaiadctl keys list"))
    change_keys(path, lambda ring: ring.without(args.name))
    return context.terminal.show(_plain(key), f"{args.name}'s key is revoked.")


def _place(args: argparse.Namespace) -> tuple[Config, Path]:
    config = read_settings(absolute(args.config or SYSTEM_SETTINGS))
    if config.keys_file is None:
        raise ConfigError("keys.file is empty, so there are no keys", hint="name a file there")
    return config, config.keys_file


def _plain(key: Key) -> dict[str, object]:
    return {
        "name": key.name,
        "id": key.id,
        "stages": None if key.stages is None else sorted(key.stages),
        "consent": None if key.consent is None else sorted(key.consent),
        "created": key.created,
    }


def _listed(words: frozenset[str] | None, every: str) -> str:
    return every if words is None else ", ".join(sorted(words)) or "none"
