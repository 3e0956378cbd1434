"""The whole loop, for real, on this machine: route, record, learn, examine, hot-swap, roll back.

    python -m examples.demo [--folder var/demo]

It starts a daemon of its own with an embedded vLLM and a 135M model, sends it traffic, lets it learn, tries to fool it
with two bad adapters, and draws a report. Every step is checked; the exit code is 0 only if each one really held.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from examples.demo_world import (
    GUARD_MAX_FAILURES,
    GUARD_WINDOW,
    ROOT,
    DemoFailed,
    World,
    empty_folder,
    train_negative,
)
from gaiad.adapter import VersionName
from gaiad.curriculum import Curriculum
from gaiad.errors import GaiadError
from gaiad.learner.controls import scrambled_answers, shuffled_labels
from gaiad.learner.dataset import Dataset, request_of
from gaiad.learner.exams.score import fits, parsed_object
from gaiad.learner.sources import catalogue
from gaiad.report import Bar, BarGroup, Comparison, LossPoint, Report, Step, TimelineEvent, render
from gaiad.rollout import Guard, GuardState, ReplyOutcome, RollBack

ADAPTER = "json-architect"
STAGE = {"X-Gaia-Stage": "tool_selection"}
UNCONSENTED = "what was the plan with the violet umbrella 7f3a91"
CORRECTED = "my nephew wants to hear what became of the lighthouse keeper, look it up online"
MIN_GAIN = 0.20
SCRAMBLED_STEPS = 24
MOST_FORCED_REQUESTS = 40
MOST_ROLLBACK_S = 1.0


@dataclasses.dataclass(frozen=True)
class Seen:
    """One reply as its client saw it: when it was whole (seconds since 1970), and what was wrong with it."""

    at: float
    outcome: ReplyOutcome
    complete: bool


def window_filled_at(replies: Sequence[Seen], guard: Guard) -> float | None:
    """When the reply came with which the guard had to act, judged from outside; None where it never had to."""
    if not replies or replies[0].outcome.version is None:
        return None
    state = GuardState(replies[0].outcome.version)
    for reply in replies:
        state, decision = guard.observe(state, reply.outcome)
        if isinstance(decision, RollBack):
            return reply.at
    return None


class Demo:
    """Runs the steps in order and remembers what each one showed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder)
        self.curriculum: Curriculum = catalogue.load_curriculum(catalogue.shipped_curricula() / ADAPTER, "demo")
        self.material: Dataset = catalogue.gather(self.curriculum, catalogue.shipped_curricula() / ADAPTER, [])
        self.steps: list[Step] = []
        self.comparisons: list[Comparison] = []
        self.began = time.time()
        self.cycle: dict[str, Any] = {}
        self.shuffled: dict[str, Any] = {}

    def check(self, name: str, held: bool, detail: str, seconds: float | None = None) -> None:
        """Note a step; one that did not hold ends the demo."""
        self.steps.append(Step(name, held, detail, seconds))
        mark = "ok    " if held else "FAILED"
        print(f"  {mark} {name}: {detail}" + (f"  [{seconds:.1f} s]" if seconds is not None else ""), flush=True)
        if not held:
            raise DemoFailed(f"{name}: {detail}")

    # --- traffic --------------------------------------------------------------------------------------------------

    def messages(self, request: str) -> list[dict[str, str]]:
        """A tool-selection request exactly as the runtime renders it, asking for `request`."""
        template = self.material.heldout[0]
        old = request_of(template)
        return [
            {"role": message.role, "content": message.content.replace(old, request)}
            for message in template.messages[:-1]
        ]

    def ask(self, request: str, user: str = "", **extra: str) -> tuple[ChatCompletion, Mapping[str, str]]:
        """Send one request through the proxy; returns the reply and its headers."""
        headers = {**STAGE, **({"X-Gaia-User": user} if user else {}), **extra}
        raw = self.world.client.chat.completions.with_raw_response.create(
            model="auto",
            messages=self.messages(request),  # type: ignore[arg-type]
            temperature=0,
            max_tokens=self.curriculum.exam.max_tokens,
            extra_headers=headers,
        )
        return raw.parse(), raw.headers

    def some_traffic(self) -> str:
        """Consented, corrected and unconsented requests; returns the corrected exchange's id."""
        self.world.ctl("consent", "grant", "alice", "--purpose", "train")
        kept = [self.ask("remind me to water the ferns", user="alice")[1]["X-Gaia-Request-Id"]]
        widened = self.ask("note that the spare key is with the neighbour", user="carol", **{"X-Gaia-Consent": "log"})
        kept.append(widened[1]["X-Gaia-Request-Id"])
        self.ask(UNCONSENTED, user="bob")
        self.ask(f"{UNCONSENTED} please")
        corrected = self.ask(CORRECTED, user="alice")[1]["X-Gaia-Request-Id"]
        self.wait_until_durable([*kept, corrected])
        answer = self.correction()
        body = {"request_id": corrected, "verdict": "bad", "correction": answer}
        reply = self.world.client.post("/feedback", cast_to=object, body=body)
        self.check("a correction is taken", reply is not None, f"request {corrected}")
        return corrected

    def correction(self) -> str:
        """The right answer to CORRECTED, with a tool of the demo's catalogue."""
        tools = sorted({str((example.expected or {}).get("selected_tool")) for example in self.material.train} - {""})
        tool = next((name for name in tools if "search" in name), tools[0])
        params = json.dumps({"query": "lighthouse keeper"}, separators=(",", ":"))
        answer = {"selected_tool": tool, "params": params, "reasoning": "look it up online", "confidence": 0.9}
        return json.dumps(answer)

    def wait_until_durable(self, request_ids: Sequence[str]) -> None:
        """Wait until each exchange is acknowledged as kept."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            shown = [self.world.ctl("exchanges", "show", one, may_fail=True) for one in request_ids]
            if all(one.get("durable") is True for one in shown):
                self.check("consented exchanges are durable", True, f"{len(shown)} of {len(request_ids)}")
                return
            time.sleep(0.2)
        self.check("consented exchanges are durable", False, "not within 20 s")

    # --- learning -------------------------------------------------------------------------------------------------

    def learn(self, corrected: str) -> None:
        """One cycle: dataset, training, exams, gate, promotion."""
        print("\nOne learning cycle (gaiadctl train --wait shows what it is at)", flush=True)
        started = time.monotonic()
        row = self.world.ctl("train", ADAPTER, "--wait", may_fail=True)
        self.cycle = row.get("report") or {}
        took = time.monotonic() - started
        self.check("the candidate passes the gate", row.get("verdict") == "promoted", str(row.get("reason")), took)
        exams = self.cycle["exams"]
        base, candidate = exams["base"]["tool"], exams["candidate"]["tool"]
        gain = candidate["rate"] - base["rate"]
        figures = f"base {said(base)}, candidate {said(candidate)}, constrained by the schema, greedy"
        self.check("at least 100 held-out requests", candidate["total"] >= 100, f"{candidate['total']} requests")
        self.check(f"at least {MIN_GAIN:.0%} above the base", gain >= MIN_GAIN, f"{figures}: {gain:+.1%}")
        constant = exams["candidate"]["constant"]
        floor = f"lower bound {candidate['low']:.1%}, best constant {constant['rate']:.1%}"
        self.check("above the best constant answer", candidate["low"] > constant["rate"], floor)
        self.check_dataset(Path(self.world.state) / "datasets" / row["dataset_digest"], corrected)

    def check_dataset(self, dataset: Path, corrected: str) -> None:
        """The corrected exchange is learned from; what nobody agreed to is nowhere."""
        lines = (dataset / "train.jsonl").read_text(encoding="utf-8").splitlines()
        origins = [json.loads(line)["origin"] for line in lines]
        found = origins.count(f"exchange:{corrected}")
        self.check("the corrected exchange is in the train split", found == 1, f"{found} of {len(origins)} examples")
        held = [path.name for path in self.world.files_holding(UNCONSENTED)]
        self.check("an unconsented request is kept nowhere", not held, f"found in {held or 'no file'}")
        planted = self.world.files_holding(CORRECTED)
        self.check("the same search finds a consented one", bool(planted), f"in {len(planted)} files")

    # --- negatives ------------------------------------------------------------------------------------------------

    def reject_shuffled(self) -> None:
        """An adapter trained on shuffled labels is examined and refused."""
        print("\nA bad adapter: the same examples with their answers shuffled", flush=True)
        started = time.monotonic()
        folder = self.folder / "shuffled"
        examples = shuffled_labels(self.material.train, seed=7)
        asyncio.run(train_negative(folder, self.curriculum, examples, self.curriculum.training.max_steps))
        row = self.world.ctl("adapters", "import", str(folder / ADAPTER), "--name", ADAPTER, may_fail=True)
        took = time.monotonic() - started
        self.check("the gate rejects shuffled labels", row.get("verdict") == "rejected", str(row.get("reason")), took)
        self.shuffled = self.world.ctl("adapters", "show", str(row["version"]))["report"]["exams"]["candidate"]["tool"]
        low = self.cycle["exams"]["candidate"]["tool"]["low"]
        detail = f"lower bound {low:.1%}, shuffled {said(self.shuffled)}"
        self.check("the candidate stands above shuffled labels", low > self.shuffled["rate"], detail)

    def roll_back_scrambled(self, good: str) -> None:
        """An adapter trained on garbage is forced live; the live guard takes it back."""
        print("\nA worse one: scrambled answers, forced live past the gate", flush=True)
        started = time.monotonic()
        folder = self.folder / "scrambled"
        examples = scrambled_answers(self.material.train, seed=8)
        asyncio.run(train_negative(folder, self.curriculum, examples, SCRAMBLED_STEPS))
        words = ("--name", ADAPTER, "--activate", "--reason", "the demo wants to see the live guard at work")
        row = self.world.ctl("adapters", "import", str(folder / ADAPTER), *words)
        bad = str(row["version"])
        took = time.monotonic() - started
        self.check("it is forced live", self.active() == bad, f"{bad} is active", took)
        replies = self.replies_of(bad)
        history = self.world.ctl("adapters", "show", ADAPTER)["events"]
        fell = next((one for one in history if one["version"] == bad and one["what"] == "rolled_back"), None)
        filled_at = window_filled_at(replies, Guard(GUARD_WINDOW, GUARD_MAX_FAILURES))
        late_s = fell["at"] - filled_at if fell and filled_at else None
        figures = f"after {len(replies)} replies: {fell['reason'] if fell else 'it did not fall'}"
        if late_s is not None:
            figures = f"{late_s * 1000:+.0f} ms after the reply that filled the window, {figures}"
        held = late_s is not None and late_s <= MOST_ROLLBACK_S
        self.check(f"the live guard rolls it back within {MOST_ROLLBACK_S:g} s", held, figures)
        complete = sum(reply.complete for reply in replies)
        detail = f"{complete} of {len(replies)} replies were complete HTTP 200"
        self.check("every reply in between was complete", 0 < complete == len(replies), detail)
        _, headers = self.ask(request_of(self.material.heldout[0]))
        after = headers["X-Gaia-Adapter"]
        self.check("the last good version serves again", after == good == self.active(), f"X-Gaia-Adapter: {after}")

    def replies_of(self, bad: str) -> list[Seen]:
        """Ask until another version answers; what `bad` answered till then, that other reply not counted."""
        replies: list[Seen] = []
        schema = self.curriculum.stage_schemas["tool_selection"]
        for number in range(MOST_FORCED_REQUESTS):
            reply, headers = self.ask(request_of(self.material.heldout[number % len(self.material.heldout)]))
            at = time.time()
            if headers["X-Gaia-Adapter"] != bad:
                break
            text, finish = answer_of(reply), str(reply.choices[0].finish_reason)
            request_id = headers["X-Gaia-Request-Id"]
            outcome = ReplyOutcome(
                version=VersionName(bad),
                stage="tool_selection",
                request_id=request_id,
                schema_ok=fits(schema, parsed_object(text)),
                empty=not text.strip(),
                truncated=finish == "length",
            )
            replies.append(Seen(at, outcome, complete=finish in ("stop", "length")))
        return replies

    def active(self) -> str | None:
        """The version that serves tool selection now, asked on the control socket without the cost of a new process."""
        rows = self.world.socket.get("status")["stages"]
        return next((row["version"] for row in rows if row["stage"] == "tool_selection"), None)

    # --- the whole ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All steps in order; raises DemoFailed at the first that does not hold."""
        with self.world.running():
            print("Starting gaiad with an embedded vLLM", flush=True)
            took = self.world.wait_until_serving(420)
            engine = self.world.status()["engine"]
            self.check("gaiad serves", True, f"vLLM {engine.get('version')} at {self.world.client.base_url}", took)
            probe = request_of(self.material.heldout[1])
            before, headers = self.ask(probe)
            self.check(
                "no adapter yet, so the base serves", headers["X-Gaia-Adapter"] == "base", "X-Gaia-Adapter: base"
            )
            corrected = self.some_traffic()
            self.learn(corrected)
            after, headers = self.ask(probe)
            good = str(self.active())
            self.check("the promoted version serves", headers["X-Gaia-Adapter"] == good, f"X-Gaia-Adapter: {good}")
            self.comparisons.append(Comparison(probe, answer_of(before), answer_of(after)))
            print(f"\n    asked   {probe}\n    before  {shortened(answer_of(before))}\n    after   {answer_of(after)}")
            self.reject_shuffled()
            self.roll_back_scrambled(good)
            heavy = self.world.modules_in_daemon()
            self.check("the daemon is light", not heavy, f"mapped into it: {heavy or 'no heavy library'}")
            self.events = self.world.ctl("adapters", "show", ADAPTER)["events"]
            code = self.world.stop()
            left = self.world.engine_processes()
            self.check("it stops cleanly", code == 0 and not left, f"exit code {code}, {len(left)} processes left")

    def report(self) -> Report:
        """The page's figures."""
        exams: Mapping[str, Any] = self.cycle.get("exams", {})
        groups = [
            BarGroup(title, [bar(label, exams[name][metric], muted="base" in name) for label, name in rows])
            for title, metric, rows in _GROUPS
            if all(name in exams for _, name in rows)
        ]
        if groups and self.shuffled:
            groups[0] = dataclasses.replace(
                groups[0], bars=[*groups[0].bars, bar("shuffled labels", self.shuffled, muted=True)]
            )
        loss = [
            LossPoint(point["step"], point["loss"], point["validation_loss"]) for point in self.cycle.get("loss", [])
        ]
        timeline = [
            TimelineEvent(event["at"] - self.began, event["version"], event["what"], event["reason"] or "")
            for event in sorted(getattr(self, "events", []), key=lambda event: float(event["at"]))
            if event["version"]
        ]
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        subtitle = f"{ADAPTER} on SmolLM2-135M-Instruct, {when}, {time.time() - self.began:.0f} s in all"
        return Report("gaiad: one learning loop", subtitle, self.steps, loss, groups, timeline, self.comparisons)


_PAIR = (("base", "base"), ("candidate", "candidate"))
_FREE = (("base", "base_unconstrained"), ("candidate", "candidate_unconstrained"))
_GROUPS = (
    ("Exact tool, answers constrained by the stage's schema", "tool", _PAIR),
    ("Exact tool, unconstrained", "tool", _FREE),
    ("Exact tool and parameters, constrained", "params", _PAIR),
    ("Valid JSON, unconstrained", "valid_json", _FREE),
)


def bar(label: str, metric: Mapping[str, Any], *, muted: bool) -> Bar:
    """One bar of an exam chart from a metric's JSON."""
    note = f"{metric['hits']}/{metric['total']}"
    return Bar(label, metric["hits"] / metric["total"], metric["low"], metric["high"], note, muted)


def said(metric: Mapping[str, Any]) -> str:
    """A metric in words."""
    return f"{metric['hits']}/{metric['total']} = {metric['rate']:.1%} ({metric['low']:.1%} to {metric['high']:.1%})"


def answer_of(reply: ChatCompletion) -> str:
    """The reply's text."""
    return reply.choices[0].message.content or ""


def shortened(text: str, most: int = 160) -> str:
    """One line of `text`."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def main() -> int:
    """Run the demo; 0 only if each step held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "demo", help="emptied first")
    folder = parser.parse_args().folder.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the demo was ended"))
    empty_folder(folder)
    demo, failure = Demo(folder), ""
    try:
        demo.run()
    except (DemoFailed, GaiadError, openai.OpenAIError) as error:
        failure = str(error) or type(error).__name__
    page = folder / "report.html"
    page.write_text(render(demo.report()), encoding="utf-8")
    print("\n" + "\n".join(f"{'ok' if s.held else 'FAILED':7}{s.name:48}{shortened(s.detail, 90)}" for s in demo.steps))
    print(f"\n{time.time() - demo.began:.0f} s; the report: {page}")
    if failure:
        print(f"\nThe demo did not hold: {failure}\nThe daemon's log: {demo.world.log}", file=sys.stderr)
        return 1
    print("Every step held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
