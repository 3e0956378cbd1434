"""The live guards: what was seen of each adapter's active version since it was activated.

Holds the windows between replies. When a window is bad enough stands in `rollout`; flipping the alias is the loop's.
"""

from __future__ import annotations

from collections.abc import Mapping

from gaiad.adapter import AdapterName, VersionName, version_parts
from gaiad.rollout import Guard, GuardState, ReplyOutcome, RollBack


class Guards:
    """One window an adapter, which starts anew with every activation."""

    def __init__(self, window: int, max_failures: int) -> None:
        self._guard = Guard(window, max_failures)
        self._states: dict[AdapterName, GuardState] = {}

    def observe(self, outcome: ReplyOutcome, active: Mapping[AdapterName, VersionName]) -> RollBack | None:
        """Take one reply; only those of active versions count. Says so where that one must stop serving."""
        parts = version_parts(outcome.version or "")
        if parts is None or active.get(parts.adapter) != outcome.version:
            return None
        state = self._states.get(parts.adapter)
        if state is None or state.version != parts.name:
            state = GuardState(parts.name)
        self._states[parts.adapter], decision = self._guard.observe(state, outcome)
        return decision if isinstance(decision, RollBack) else None

    def forget(self, adapter: AdapterName) -> None:
        """Start anew: another version of `adapter` serves from now on."""
        self._states.pop(adapter, None)

    def status(self) -> dict[str, object]:
        """The windows by adapter, as the status page shows them."""
        guard = self._guard
        return {
            adapter: {
                "version": state.version,
                "seen": state.seen,
                "failures": state.failures,
                "window": guard.window,
                "max_failures": guard.max_failures,
            }
            for adapter, state in self._states.items()
        }
