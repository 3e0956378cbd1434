"""What all requests share: the way to the engine, the counts, and what is remembered between them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gaiad.proxy.outbox import Outbox
from gaiad.proxy.ports import ProxyDeps
from gaiad.proxy.stored import AskedNames
from gaiad.proxy.turns import Turns
from gaiad.proxy.upstream import Upstream
from gaiad.proxy.ways import Ways


@dataclass(frozen=True, slots=True)
class Shared:
    """One for a proxy. `stopping` is set once it takes no new connection."""

    deps: ProxyDeps
    upstream: Upstream
    outbox: Outbox
    ways: Ways
    turns: Turns
    names: AskedNames
    stopping: asyncio.Event


def shared_of(deps: ProxyDeps) -> Shared:
    """Everything new, for the deps of one proxy."""
    config, outbox = deps.config, Outbox()
    timeout_s = config.proxy.upstream_timeout_s
    return Shared(
        deps,
        Upstream(config.engine.url, api_key=deps.api_key, timeout_s=timeout_s, outbox=outbox),
        outbox,
        Ways(config, deps.snapshot, deps.facts),
        Turns(config.proxy.limits.streams_per_user),
        AskedNames(),
        asyncio.Event(),
    )
