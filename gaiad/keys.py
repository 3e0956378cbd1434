"""API keys: what one may do, how it is written down, and which one a client presents.

A key opens inference for one name, nothing else. It is 256 random bits, of which only the SHA-256 is kept: no list of
likely keys can be tried against it, so a slow hash, which is for passwords, would only make each request dear. Decides
nothing about files; `keyfile` has those.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gaiad.errors import ConfigError
from gaiad.user import user_name

PREFIX = "gaia"
SECRET_BYTES = 32
ID_BYTES = 4
_KEY = re.compile(rf"{PREFIX}-([0-9a-f]{{{2 * ID_BYTES}}})-[0-9a-f]{{{2 * SECRET_BYTES}}}")
_ID = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")
_DIGEST = re.compile("[0-9a-f]{64}")
_PURPOSES = frozenset({"log", "train", "evaluate"})
_HINT = "mend it, or write it anew with gaiadctl keys"


@dataclass(frozen=True, slots=True)
class Key:
    """One key without its secret. `stages` and `consent` are None where it is not held to any."""

    name: str
    id: str
    digest: str = field(repr=False)
    stages: frozenset[str] | None = None
    consent: frozenset[str] | None = None
    created: float = 0.0

    def opens(self, stage: str) -> bool:
        """Whether requests of `stage` may be made with it."""
        return self.stages is None or stage in self.stages

    def narrowed(self, purposes: frozenset[str]) -> frozenset[str]:
        """What remains of the purposes that an exchange may be kept for."""
        return purposes if self.consent is None else purposes & self.consent


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys by their id, which is no secret. Without any, nothing opens."""

    keys: Mapping[str, Key] = field(default_factory=dict)

    def find(self, presented: str) -> Key | None:
        """The key that `presented` is; how long a wrong secret takes to refuse says nothing about the right one."""
        match = _KEY.fullmatch(presented)
        key = self.keys.get(match[1]) if match else None
        if key is None or not hmac.compare_digest(digest_of(presented), key.digest):
            return None
        return key

    def named(self, name: str) -> Key | None:
        """The key of a name."""
        return next((key for key in self.keys.values() if key.name == name), None)

    def with_key(self, key: Key) -> Keyring:
        """The same keys and one more."""
        return Keyring({**self.keys, key.id: key})

    def without(self, name: str) -> Keyring:
        """The same keys but that of `name`."""
        return Keyring({id_: key for id_, key in self.keys.items() if key.name != name})


def key_text(id_: str, secret: str) -> str:
    """What a client presents."""
    return f"{PREFIX}-{id_}-{secret}"


def digest_of(presented: str) -> str:
    """What is kept of it."""
    return hashlib.sha256(presented.encode()).hexdigest()


def key_name(text: str) -> str | None:
    """The name that `text` is for a key, which names a user too; None where it can be none."""
    return text if user_name(text) == text and text.isprintable() else None


def consent_of(words: str) -> frozenset[str] | None:
    """What `none` or a comma list of purposes comes to, `log` included in each; None where it is neither."""
    given = [word.strip().lower() for word in words.split(",")]
    if given == ["none"]:
        return frozenset()
    return frozenset(given) | {"log"} if _PURPOSES.issuperset(given) else None


def render(ring: Keyring) -> str:
    """Write keys down."""
    rows = [
        {
            "name": key.name,
            "id": key.id,
            "sha256": key.digest,
            "stages": None if key.stages is None else sorted(key.stages),
            "consent": None if key.consent is None else sorted(key.consent),
            "created": key.created,
        }
        for key in ring.keys.values()
    ]
    return json.dumps({"keys": rows}, indent=2, ensure_ascii=False) + "\n"


def parse(text: str) -> Keyring:
    """Read what was written down.

    Raises:
        ConfigError: it is not that, or two keys share a name or an id.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError("the file of keys is not JSON", hint=_HINT) from error
    rows = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise ConfigError("the file of keys has no list `keys`", hint=_HINT)
    keys = [_key(row, at) for at, row in enumerate(rows, 1)]
    if len({key.name for key in keys}) < len(keys) or len({key.id for key in keys}) < len(keys):
        raise ConfigError("two keys in the file share a name or an id", hint=_HINT)
    return Keyring({key.id: key for key in keys})


def _key(row: object, at: int) -> Key:
    known = {"name", "id", "sha256", "stages", "consent", "created"}
    if isinstance(row, dict) and row.keys() <= known:
        name, id_, digest, created = row.get("name"), row.get("id"), row.get("sha256"), row.get("created", 0.0)
        stages, consent = _words(row.get("stages")), _words(row.get("consent"))
        if (
            isinstance(name, str)
            and key_name(name)
            and isinstance(id_, str)
            and _ID.fullmatch(id_)
            and isinstance(digest, str)
            and _DIGEST.fullmatch(digest)
            and isinstance(created, int | float)
            and (stages is not None or row.get("stages") is None)
            and (row.get("consent") is None or (consent is not None and consent <= _PURPOSES))
        ):
            return Key(name, id_, digest, stages, consent, float(created))
    raise ConfigError(f"key number {at} in the file of keys is none", hint=_HINT)


def _words(value: object) -> frozenset[str] | None:
    return frozenset(value) if isinstance(value, list) and all(isinstance(word, str) for word in value) else None


def stages_of(words: str, known: Iterable[str]) -> frozenset[str]:
    """The stages in a comma list.

    Raises:
        ConfigError: one is not known, or there is none.
    """
    stages = frozenset(filter(None, (word.strip() for word in words.split(","))))
    unknown = sorted(stages - frozenset(known))
    if unknown or not stages:
        what = f"{', '.join(unknown)} is no stage" if unknown else "no stage is named"
        raise ConfigError(what, hint=f"stages are {', '.join(sorted(known))}")
    return stages
