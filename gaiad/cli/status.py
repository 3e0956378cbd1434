"""`gaiadctl status`, `gaiadctl cycles` and `gaiadctl report`: what gaiad is at, and what it did."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, TypeAlias

from gaiad.cli.command import Context, Subcommands, absolute, add
from gaiad.cli.output import age, amount, bar, brief, pairs, percent, span, table
from gaiad.errors import GaiadError, Refuse

Part: TypeAlias = Mapping[str, Any]


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `status`, `cycles` and `report`."""
    add(commands, common, "status", _status, "Show engine, stages, current cycle and the last decision.")
    cycles = add(commands, common, "cycles", _cycles, "List learning cycles, newest first.")
    cycles.add_argument("--limit", type=int, default=20, metavar="N", help="at most N (1 to 1000, default 20)")
    report = add(commands, common, "report", _report, "Write a learning cycle as an HTML page.")
    report.add_argument("cycle", metavar="CYCLE", nargs="?", help="its id (default: the newest)")
    report.add_argument("--out", metavar="FILE", help="where to (default: cycle-ID.html)")


def _report(args: argparse.Namespace, context: Context) -> int:
    client, cycle = context.client(), args.cycle
    if cycle is None:
        rows = client.get("cycles", limit=1).get("cycles", [])
        if not rows:
            return context.terminal.refused(Refuse("there was no cycle yet", "gaiadctl train ADAPTER starts one"))
        cycle = str(rows[0].get("id"))
    answer = client.get("cycles", cycle, "page")
    path = absolute(args.out or f"cycle-{answer.get('cycle')}.html")
    try:
        path.write_text(str(answer.get("html")), encoding="utf-8")
    except OSError as error:
        raise GaiadError(f"cannot write {path}: {error.strerror}", hint="name another --out FILE") from error
    return context.terminal.show({"cycle": answer.get("cycle"), "path": str(path)}, f"wrote {path}")


def _status(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("status")
    return context.terminal.show(answer, render_status(answer, context.terminal.now))


def _cycles(args: argparse.Namespace, context: Context) -> int:
    answer = context.client().get("cycles", limit=args.limit)
    now = context.terminal.now
    rows = [
        (
            *(row.get("id"), row.get("adapter"), age(row.get("started"), now), _took(row, now)),
            *(row.get("phase"), row.get("verdict"), brief(row.get("reason"))),
        )
        for row in answer.get("cycles", [])
    ]
    head = ("ID", "ADAPTER", "STARTED", "TOOK", "PHASE", "VERDICT", "WHY")
    return context.terminal.show(answer, table(head, rows))


def render_status(status: Part, now: float) -> str:
    """The status page: a line a subject, then the stage table."""
    learning, versions = _part(status, "learning"), _part(status, "versions")
    lines = pairs(
        [
            (
                "gaiad",
                f"{versions.get('gaiad', '?')}, {status.get('health', '?')}, up {span(status.get('uptime_s', 0))}",
            ),
            ("engine", _engine_line(_part(status, "engine"))),
            ("missing", "; ".join(_part(status, "engine").get("missing") or ())),
            ("gpu", _gpu_line(_part(status, "gpu"))),
            ("requests", _requests_line(_part(status, "requests"), now)),
            ("cycle", cycle_line(_part(learning, "cycle"))),
            ("last", _last_line(_part(learning, "last"), now)),
            ("learning", _learning_line(learning)),
            ("trouble", str(learning.get("trouble") or "")),
            ("store", _store_line(_part(status, "store"))),
        ]
    )
    rows = [
        (row.get("stage"), row.get("adapter") or "base", row.get("version") or "base", row.get("previous"))
        for row in status.get("stages", [])
    ]
    return f"{lines}\n\n{table(('STAGE', 'ADAPTER', 'ACTIVE', 'PREVIOUS'), rows)}"


def cycle_line(cycle: Part) -> str:
    """One line on a running cycle: what, where it stands, how far."""
    if not cycle:
        return ""
    parts = [
        f"{cycle.get('adapter')} ({cycle.get('profile') or cycle.get('kind') or 'cycle'})",
        str(cycle.get("phase")),
    ]
    progress = _part(cycle, "progress")
    step, total = progress.get("step"), progress.get("total")
    if isinstance(step, int) and isinstance(total, int) and total > 0:
        parts.append(f"{bar(step / total)} {step}/{total}")
    if isinstance(progress.get("loss"), int | float):
        parts.append(f"loss {progress['loss']:.3f}")
    parts += [*pace(progress), str(progress.get("note") or "")]
    return "  ".join(part for part in parts if part)


def pace(progress: Part) -> list[str]:
    """How fast training is, what it takes of the device, and how long it may still take, as far as known."""
    speed, flops, share = (progress.get(name) for name in ("tokens_per_s", "flops_per_s", "peak_share"))
    memory, left = progress.get("memory_bytes"), progress.get("eta_s")
    told = []
    if isinstance(speed, int | float) and speed > 0:
        told.append(f"{speed:.0f} tokens/s")
    if isinstance(flops, int | float):
        told.append(amount(flops, "FLOP/s") + (f" ({percent(share)} of peak)" if share is not None else ""))
    if isinstance(memory, int | float):
        told.append(f"{memory / (1 << 30):.1f} GiB")
    if isinstance(left, int | float):
        told.append(f"{span(left)} left")
    return told


def _engine_line(engine: Part) -> str:
    version = engine.get("version")
    words = [
        f"vLLM {version}" if version else "vLLM",
        f"({engine.get('mode')}, {engine.get('url')})",
        f"serves {engine['served_name']}" if engine.get("served_name") else "",
    ]
    tail = [f"up {span(engine['uptime_s'])}"] if isinstance(engine.get("uptime_s"), int | float) else []
    if engine.get("restarts"):
        tail.append(f"restarted {engine['restarts']} times")
    return ", ".join([" ".join(word for word in words if word), *tail])


def _gpu_line(gpu: Part) -> str:
    reason = f": {gpu['reason']}" if gpu.get("reason") else ""
    device = f" ({gpu['device']})" if gpu.get("device") else ""
    return f"{gpu.get('phase', '?')}{device}{reason}"


def _requests_line(requests: Part, now: float) -> str:
    last = age(requests.get("last_user_end"), now)
    words = [f"{requests.get('active', 0)} active", f"{requests.get('held', 0)} held"]
    return ", ".join([*words, f"the last user request ended {last}" if last else "no user request yet"])


def _last_line(last: Part, now: float) -> str:
    if not last:
        return ""
    when = age(last.get("at"), now)
    subject = last.get("version") or last.get("adapter") or ""
    reason = f": {_shortened(str(last['reason']))}" if last.get("reason") else ""
    return f"{subject} {last.get('what', '')}{', ' + when if when else ''}{reason}".strip()


def _shortened(reason: str, most: int = 200) -> str:
    """The beginning of a long reason; `gaiadctl cycles --json` and `adapters show` have the whole."""
    return reason if len(reason) <= most else reason[:most].rsplit(" ", 1)[0] + " ..."


def _learning_line(learning: Part) -> str:
    if not learning.get("enabled", True):
        return "off ([learning] enabled = false)"
    if _part(learning, "cycle"):
        return "a cycle is running"
    reason = learning.get("not_yet")
    return f"not yet: {reason}" if reason else "may start at the next tick"


def _store_line(store: Part) -> str:
    counts = f"{store.get('written', 0)} written, {store.get('dropped', 0)} dropped, {store.get('failed', 0)} failed"
    state = store.get("state")
    damaged = [
        f"damaged and set aside: {one.get('path')} (lost: {', '.join(one.get('lost') or ()) or 'exchanges only'})"
        for one in store.get("set_aside") or ()
    ]
    held_back = [f"nothing goes for its age: {store['held_back']}"] if store.get("held_back") else []
    return "; ".join([f"{state}, {counts}" if state else counts, *held_back, *damaged])


def _took(row: Part, now: float) -> str:
    started, ended = row.get("started"), row.get("ended")
    if not isinstance(started, int | float):
        return ""
    return span((ended if isinstance(ended, int | float) else now) - started)


def _part(whole: Part, key: str) -> Part:
    part = whole.get(key)
    return part if isinstance(part, Mapping) else {}
