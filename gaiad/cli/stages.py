"""`gaiadctl stages`: which stages there are, and why a request would get the one it gets. No daemon is asked.

Settings come from `--config`, else the defaults hold. Imports the proxy's parts only when run. A request is understood
as the proxy would, without headers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaiad.cli.command import Context, Subcommands, add, add_group
from gaiad.cli.config import read_settings, read_text
from gaiad.cli.output import DONE, FAILED, brief, pairs, table
from gaiad.config import Config, parse_config
from gaiad.errors import ConfigError

if TYPE_CHECKING:
    from gaiad.proxy.recognition import Rules, RuleScore


def register(commands: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add `stages list|test`."""
    group = add_group(commands, "stages", "Show how requests find their stage, without a daemon.")
    add(group, common, "list", _list, "List the stages, their adapters and the rules that recognise them.")
    test = add(
        group,
        common,
        "test",
        _test,
        "Say which stage a request gets, and why. FILE holds one request body as JSON, or lines of JSON with `body` "
        "and perhaps the `stage` expected; a miss exits with 1. Rules and stages are those of --config, else the "
        "shipped ones.",
    )
    test.add_argument("file", metavar="FILE", help="request body, or lines with bodies; - for standard input")


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request of a file. `expected` is None where the file says nothing."""

    id: str
    body: object
    expected: str | None


@dataclass(frozen=True, slots=True)
class _Told:
    """What the proxy would say of one request, and how well each rule fits it, best first."""

    asked: _Asked
    stage: str | None
    reason: str
    scores: Sequence[RuleScore]

    @property
    def right(self) -> bool:
        """Whether the stage is the expected one; without an expectation it is."""
        return self.asked.expected in (None, self.stage)

    @property
    def winner(self) -> RuleScore | None:
        """The rule that named the stage."""
        from gaiad.proxy.recognition import REASON_PREFIX

        named = self.reason.removeprefix(REASON_PREFIX) if self.reason.startswith(REASON_PREFIX) else None
        return next((one for one in self.scores if one.rule.id == named), None)

    def plain(self) -> dict[str, object]:
        """The same for programs."""
        winner = self.winner
        return {
            "id": self.asked.id,
            "stage": self.stage,
            "reason": self.reason,
            "rule": winner.rule.id if winner else None,
            "score": winner.score if winner else None,
            "expected": self.asked.expected,
            "right": self.right if self.asked.expected is not None else None,
            "rules": [
                {
                    "rule": one.rule.id,
                    "stage": one.rule.stage,
                    "score": one.score,
                    "threshold": one.rule.threshold,
                    "evidence": [{"feature": had.feature, "weight": had.weight} for had in one.evidence],
                }
                for one in self.scores
                if one.had
            ],
        }


def _list(args: argparse.Namespace, context: Context) -> int:
    from gaiad.proxy.rulebook import load_rules, rules_file, skipped_text
    from gaiad.proxy.stages import BASE_STAGE, known_stages

    config = _settings(args)
    rules = load_rules(config)
    stages = [
        {
            "stage": stage,
            "adapter": config.stages.get(stage, "") if stage != BASE_STAGE else "",
            "default": stage == config.proxy.default_stage,
        }
        for stage in known_stages(config.stages)
    ]
    named = [[rule.id for rule in rules.rules if rule.stage == one["stage"]] for one in stages]
    skipped = [{"rule": rule.id, "stage": rule.stage} for rule in rules.skipped]
    listed = [{**one, "rules": ids} for one, ids in zip(stages, named, strict=True)]
    answer = {"file": str(rules_file(config)), "stages": listed, "skipped": skipped}
    shown = table(
        ("STAGE", "ADAPTER", "DEFAULT", "RULES"),
        [
            (one["stage"], one["adapter"] or "the base", "yes" if one["default"] else "", ", ".join(ids))
            for one, ids in zip(stages, named, strict=True)
        ],
    )
    notes = pairs([("rules from", str(rules_file(config))), ("skipped", skipped_text(rules))])
    return context.terminal.show(answer, f"{shown}\n\n{notes}")


def _test(args: argparse.Namespace, context: Context) -> int:
    from gaiad.proxy.rulebook import load_rules

    config = _settings(args)
    rules = load_rules(config)
    told = [_told(asked, config, rules) for asked in _requests(_read(args.file))]
    expecting = [one for one in told if one.asked.expected is not None]
    right = sum(one.right for one in expecting)
    answer = {"requests": [one.plain() for one in told], "expected": len(expecting), "right": right}
    if len(told) == 1:
        text = _explained(told[0])
    else:
        # 1. Where stages are expected, people look for those that were missed.
        shown = [one for one in told if not one.right] if expecting else told
        text = _lines(shown) if shown else ""
    if expecting:
        text = f"{text}\n\n{right} of {len(expecting)} as expected".lstrip()
    context.terminal.show(answer, text)
    return DONE if right == len(expecting) else FAILED


def _told(asked: _Asked, config: Config, rules: Rules) -> _Told:
    from multidict import CIMultiDict

    from gaiad.proxy.ask import Ask, read_ask
    from gaiad.proxy.body import raw_fields

    ask = read_ask(json.dumps(asked.body).encode(), CIMultiDict(), config, rules, None)
    scores = rules.explain(raw_fields(asked.body)) if isinstance(asked.body, dict) else []
    if isinstance(ask, Ask):
        return _Told(asked, ask.stage.stage, ask.stage.reason, scores)
    return _Told(asked, None, f"refused with {ask.status}: {ask.message}", scores)


def _explained(told: _Told) -> str:
    winner = told.winner
    head = pairs(
        [
            ("request", told.asked.id),
            ("stage", told.stage or "none"),
            ("reason", told.reason),
            ("score", f"{winner.score:g} of {winner.rule.threshold:g} needed" if winner else ""),
            ("expected", told.asked.expected or ""),
        ]
    )
    rows: list[tuple[object, ...]] = []
    # 1. Habits of the sender are shared by every rule: only rules that found a phrase or a schema are worth a look.
    for one in (one for one in told.scores if any(feature.strong and feature.weight > 0 for feature, _ in one.had)):
        for number, had in enumerate(one.evidence):
            first = (
                (one.rule.id, one.rule.stage, f"{one.score:g} of {one.rule.threshold:g}") if number == 0 else (" ",) * 3
            )
            rows.append((*first, f"{had.weight:+g}", brief(had.feature)))
    return f"{head}\n\n{table(('RULE', 'STAGE', 'SCORE', 'COUNTS', 'EVIDENCE'), rows)}" if rows else head


def _lines(told: Sequence[_Told]) -> str:
    rows = [
        (one.asked.id, one.asked.expected, one.stage, f"{one.winner.score:g}" if one.winner else "", brief(one.reason))
        for one in told
    ]
    return table(("REQUEST", "EXPECTED", "STAGE", "SCORE", "REASON"), rows)


def _settings(args: argparse.Namespace) -> Config:
    """The settings named with `--config`; else the defaults, with an engine that nobody starts."""
    if not args.config:
        return parse_config('[engine]\nmode = "external"\n[learning]\nenabled = false\n', relative_to=Path.cwd())
    return read_settings(Path(args.config))


def _read(file: str) -> str:
    if file != "-":
        return read_text(Path(file))
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8 text: {error}", hint="send it as UTF-8") from error


def _requests(text: str) -> Iterator[_Asked]:
    """The requests of a file: one body, or one table line or body a line."""
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [_document(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not documents:
        raise ConfigError("there is no request in the file", hint="give a request body as JSON")
    for number, document in enumerate(documents, 1):
        is_line = isinstance(document, dict) and isinstance(document.get("body"), dict)
        yield _asked(document, number) if is_line else _Asked(str(number), document, None)


def _document(line: str, number: int) -> Any:  # noqa: ANN401
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigError(
            f"line {number} is not valid JSON: {error}", hint="give a body, or a JSON object a line"
        ) from error


def _asked(line: Mapping[str, Any], number: int) -> _Asked:
    expected = line.get("stage")
    return _Asked(str(line.get("id", number)), line["body"], expected if isinstance(expected, str) else None)
