"""The store's counters as text for Prometheus (exposition format 0.0.4).

Pure: takes the `store` part of the status page. Holds numbers and the recorder's own states, never a name or a word of
anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4"
RECORDER_STATES = ("ok", "retrying", "failing", "stopped")
_COUNTERS = {
    "written": "Exchanges that are durable.",
    "dropped": "Exchanges not recorded because the queue was full.",
    "failed": "Exchanges not recorded because the store could not be written.",
}


def metrics_of(store: Mapping[str, object]) -> str:
    """The page of `GET /metrics`."""
    lines: list[str] = []
    for name, text in _COUNTERS.items():
        lines += _family(f"gaiad_store_{name}_total", "counter", text, [("", _number(store.get(name)))])
    lines += _family(
        "gaiad_store_waiting", "gauge", "Exchanges queued and not yet durable.", [("", _number(store.get("waiting")))]
    )
    state = store.get("state")
    lines += _family("gaiad_store_up", "gauge", "Whether exchanges are being recorded.", [("", int(state == "ok"))])
    states = [(f'{{state="{name}"}}', int(state == name)) for name in RECORDER_STATES]
    lines += _family("gaiad_store_state", "gauge", "What the recorder is at: 1 for one state.", states)
    damaged = store.get("set_aside")
    count = len(damaged) if isinstance(damaged, Sequence) else 0
    lines += _family("gaiad_store_set_aside", "gauge", "Damaged files set aside and not yet deleted.", [("", count)])
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, text: str, samples: Sequence[tuple[str, int]]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{label} {value}" for label, value in samples)]


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
