"""Where requests go: what `routing` says of a name and a stage, with all that follows from it, worked out once.

Remembers the ways that were found, for as long as registry and engine stay what they are. Both are replaced, never
altered, so the same two objects mean the same ways. Refusals are not remembered: what they name is a client's to
choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gaiad.adapter import RegistrySnapshot
from gaiad.config import Config
from gaiad.proxy.ask import Ask
from gaiad.proxy.body import raw
from gaiad.proxy.credentials import reachable
from gaiad.proxy.ports import EngineKnowledge
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.routing import Serve, route
from gaiad.proxy.stages import NamedStage
from gaiad.proxy.whole import header_lines

_MOST = 512


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One way to the engine.

    `told` is the name that the engine is asked for and answers under, `model` the same as JSON; `asked` is the name
    that the client gets to see, `lines` the reply's headers that say which way it was.
    """

    serve: Serve
    told: str
    model: msgspec.Raw
    asked: str
    engine_version: str | None
    lines: str


class Ways:
    """All ways that are known now."""

    def __init__(
        self,
        config: Config,
        snapshot: Callable[[], RegistrySnapshot],
        facts: Callable[[], EngineKnowledge | None],
    ) -> None:
        self._config = config
        self._snapshot = snapshot
        self._facts = facts
        self._seen: tuple[object, object] = (None, None)
        self._known: dict[tuple[str | None, str, str], Way] = {}

    def find(self, ask: Ask) -> Way | Rejection:
        """The way of a request as things stand now, or why there is none."""
        snapshot, facts, stage = self._snapshot(), self._facts(), ask.stage
        if snapshot is not self._seen[0] or facts is not self._seen[1]:
            self._seen = (snapshot, facts)
            self._known.clear()
        place = (ask.model, stage.stage, stage.reason)
        way = self._known.get(place)
        if way is None:
            found = self._work_out(ask, snapshot, facts)
            if isinstance(found, Rejection):
                return found
            way = found
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[place] = way
        if ask.key is None:
            return way
        serve = reachable(ask.key, way.serve, self._config.stages)
        return serve if isinstance(serve, Rejection) else way

    def served_name(self) -> str:
        """The name under which the engine serves the base model."""
        return self._named_by(self._facts())

    def _named_by(self, facts: EngineKnowledge | None) -> str:
        return (facts.served_name if facts else "") or self._config.engine.served_name

    def _work_out(self, ask: Ask, snapshot: RegistrySnapshot, facts: EngineKnowledge | None) -> Way | Rejection:
        config, served_name = self._config, self._named_by(facts)
        serve = route(
            model=ask.model,
            stage=ask.stage.stage,
            stages=config.stages,
            base_names=config.proxy.base_names,
            served_name=served_name,
            snapshot=snapshot,
        )
        if isinstance(serve, Rejection):
            return serve
        told = serve.version or served_name
        lines = header_lines(labels(ask.stage, serve))
        version = facts.version if facts else None
        return Way(serve, told, raw(told), ask.model or served_name, version, lines)


def labels(stage: NamedStage | None, serve: Serve | None) -> dict[str, str]:
    """The headers that tell of a request's stage and of what served it, as far as that is known."""
    headers: dict[str, str] = {}
    if stage is not None:
        headers |= {"X-Gaia-Stage": stage.stage, "X-Gaia-Stage-Reason": stage.reason}
    if serve is not None:
        headers |= {"X-Gaia-Adapter": serve.label, "X-Gaia-Arm": serve.arm}
    return headers
