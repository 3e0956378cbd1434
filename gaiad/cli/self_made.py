"""`gaiadctl curriculum propose|replay`: lets the base model itself make material, through the proxy, and keeps it.

What is kept lies in files that sources of the kinds `self_instruct` and `self_replay` read; building a dataset asks
nobody. No control socket is needed. Which questions are asked and what an answer is worth is decided in the learner.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gaiad.cli import dataset
from gaiad.cli.command import Context, Subcommands, absolute, add
from gaiad.cli.config import read_settings, read_text
from gaiad.cli.output import DONE, FAILED, REFUSED, Terminal, bar, pairs
from gaiad.config import Config, names_module
from gaiad.errors import ConfigError, CurriculumError, EngineError, Refuse

if TYPE_CHECKING:
    from gaiad.learner.base_model import Where
    from gaiad.learner.example import Example
    from gaiad.learner.inquiry import Tally
    from gaiad.learner.made_file import MadeFile
    from gaiad.learner.self_made import Base, Made, Question, Said

_HERE = "var"
"""Where the state lies as far as nothing else is said: what is made goes into its folder self_made."""
_PROXY = "http://127.0.0.1:6430"
_MOST_PROMPTS = 4000


def register(group: Subcommands, common: argparse.ArgumentParser) -> None:
    """Add the two commands to the group `curriculum`."""
    propose = add(
        group,
        common,
        "propose",
        _propose,
        "Let the base say a curriculum's requests in other words. What a verifier passes is kept, to be read by the "
        "curriculum's source of the kind self_instruct.",
    )
    propose.add_argument("name", metavar="ADAPTER", help=dataset.NAME_HELP)
    propose.add_argument("--profile", metavar="P", help="the curriculum's profile (default: that of --config, or full)")
    propose.add_argument("--documents", action="append", metavar="PATH", help="own Markdown, besides that of --config")
    propose.add_argument("--registry", action="append", metavar="R", help="own tools, besides those of --config")
    reply = add(
        group,
        common,
        "replay",
        _replay,
        "Let the base answer general requests. What a verifier passes is kept, to be read by sources of the kind "
        "self_replay, so that an adapter forgets less.",
    )
    reply.add_argument(
        "--prompts", metavar="FILE", help="a grammar of requests (default: the one that comes with gaiad)"
    )
    _add_asking(propose, temperature=0.8, tokens=96)
    _add_asking(reply, temperature=0.7, tokens=256)


def _add_asking(parser: argparse.ArgumentParser, *, temperature: float, tokens: int) -> None:
    """Add the options that both have: who is asked, how, how long, and where answers go."""
    parser.add_argument(
        "--curricula", metavar="DIR", help="holds the curricula (default: those of --config, or shipped)"
    )
    parser.add_argument("--url", help=f"an OpenAI-compatible server (default: the proxy of --config, or {_PROXY})")
    parser.add_argument("--model", metavar="NAME", help="what it calls the bare base (default: gaia:base, the proxy's)")
    parser.add_argument("--key-file", metavar="FILE", help="holds the API key, on one line")
    parser.add_argument(
        "--out", metavar="FILE", help=f"where to (default: in the state of --config, or {_HERE}/self_made)"
    )
    parser.add_argument("--anew", action="store_true", help="begin without what an earlier run made")
    parser.add_argument("--keep", type=_whole, default=200, metavar="N", help="end once N are kept (default: 200)")
    parser.add_argument("--ask", type=_whole, default=2000, metavar="N", help="ask N times at most (default: 2000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of what is asked, and how (default: 1)")
    parser.add_argument("--temperature", type=_number, default=temperature, metavar="T", help=f"default: {temperature}")
    parser.add_argument("--top-p", type=_number, default=0.95, metavar="P", help="default: 0.95")
    parser.add_argument("--max-tokens", type=_whole, default=tokens, metavar="N", help=f"default: {tokens}")
    parser.add_argument("--concurrency", type=_whole, default=4, metavar="N", help="questions at once (default: 4)")
    parser.add_argument(
        "--timeout", type=_number, default=120.0, metavar="S", help="seconds for one answer (default: 120)"
    )
    parser.add_argument("--tries", type=_whole, default=3, metavar="N", help="for each question (default: 3)")
    parser.add_argument("--deadline", type=_number, default=3600.0, metavar="S", help="seconds for all (default: 3600)")


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be 1 or more")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError("it must be a number of 0 or more")
    return number


# --- What is asked ----------------------------------------------------------------------------------------------


def _propose(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.self_made import SELF_INSTRUCT
    from gaiad.learner.self_work import Proposing
    from gaiad.learner.sources import catalogue
    from gaiad.learner.sources.self_instruct import originals_among, refusals_among

    settings = _settings(args)
    folder = dataset.folder_of(args.name, _curricula(args, settings))
    curriculum = catalogue.load_curriculum(folder, args.profile or settings.learning.profile)
    documents = [*map(Path, settings.learning.documents), *(absolute(one) for one in args.documents or ())]
    given = (one if names_module(one) else str(absolute(one)) for one in args.registry or ())
    examples, own = catalogue.without_self_made(curriculum, folder, documents, [*settings.learning.registries, *given])
    originals = [original for original, _ in originals_among(examples, own)]
    skipped = Counter(refusals_among(examples))
    if not originals:
        told = ", ".join(f"{reason} ({count})" for reason, count in skipped.most_common(3))
        raise CurriculumError(
            f"of no request of {curriculum.adapter} could be checked whether other words keep its sense: {told}",
            hint="name a curriculum with selections of tools; only of these that can be told",
        )
    work = Proposing(examples, originals, curriculum.split.near_duplicate, args.seed)
    out = _out(args, settings, SELF_INSTRUCT, str(curriculum.adapter))
    return _asked(args, context, settings, _Work(f"other words for {curriculum.adapter}", out, work, skipped))


def _replay(args: argparse.Namespace, context: Context) -> int:
    from gaiad.learner.self_made import SELF_REPLAY
    from gaiad.learner.self_work import Replying
    from gaiad.learner.sources import catalogue
    from gaiad.learner.sources.open_prompts import PROMPTS, open_prompts, parse_grammar

    settings = _settings(args)
    shipped = catalogue.shipped_curricula() / PROMPTS
    grammar = parse_grammar(read_text(absolute(args.prompts) if args.prompts else shipped))
    examples: list[Example] = []
    near = 1.0
    for folder in dataset.all_folders(_curricula(args, settings)):
        curriculum = catalogue.load_curriculum(folder, settings.learning.profile)
        learning = settings.learning
        found, _ = catalogue.without_self_made(
            curriculum, folder, [*map(Path, learning.documents)], learning.registries
        )
        examples += found
        near = min(near, curriculum.split.near_duplicate)
    work = Replying(examples, open_prompts(grammar, args.seed, _MOST_PROMPTS), near, args.seed)
    return _asked(args, context, settings, _Work("replies", _out(args, settings, SELF_REPLAY, ""), work, work.skipped))


def _settings(args: argparse.Namespace) -> Config:
    if args.config:
        return read_settings(absolute(args.config))
    return Config(absolute(_HERE), absolute(_HERE) / "control.sock")


def _curricula(args: argparse.Namespace, settings: Config) -> str | None:
    return args.curricula or settings.learning.curricula or None


def _out(args: argparse.Namespace, settings: Config, kind: str, adapter: str) -> Path:
    from gaiad.learner.sources.self_made_files import owners_file

    return absolute(args.out) if args.out else owners_file(settings.self_made_dir, kind, adapter)


# --- Asking -----------------------------------------------------------------------------------------------------


class _Asks(Protocol):
    """What is asked and how answers are judged: see `learner.self_work`."""

    def uses(self, row: Made) -> bool: ...

    def knows(self, rows: Iterable[Made]) -> None: ...

    def questions(self, done: frozenset[str]) -> Iterator[Question]: ...

    def judge(self, question: Question, said: Said) -> tuple[str, str | None]: ...


@dataclass(frozen=True, slots=True)
class _Work:
    """`what` is made, into which file, by asking what; `skipped` counts by reason what is not asked for."""

    what: str
    out: Path
    asks: _Asks
    skipped: Mapping[str, int]


def _asked(args: argparse.Namespace, context: Context, settings: Config, work: _Work) -> int:
    import asyncio

    from gaiad.learner.inquiry import Ended
    from gaiad.learner.made_file import opened

    where, whole = _where(args, settings), False
    with opened(work.out, anew=args.anew) as file:
        if isinstance(file, Refuse):
            return context.terminal.refused(file)
        try:
            outcome = asyncio.run(_inquired(args, context.terminal, settings, work, where, file))
            whole = not isinstance(outcome, Refuse) and outcome[1].ended is not Ended.TIME_IS_UP
        except EngineError as error:
            kept = sum(map(work.asks.uses, file.rows))
            so_far = f"; {kept} are kept so far for {work.out}" if file.rows else ""
            raise EngineError(f"{error.message}{so_far}", hint=error.hint) from error
        finally:
            # Whatever ends it, Ctrl-C too: what was made until then can be used, and is not asked again.
            is_shown = file.publish(whole=whole)
        if isinstance(outcome, Refuse):
            return context.terminal.refused(outcome)
        return _told(context.terminal, work, file, *outcome, is_shown=is_shown)


def _where(args: argparse.Namespace, settings: Config) -> Where:
    from gaiad.learner.base_model import BARE, Where

    host, port = settings.listen_address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    proxy = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    url = (args.url or proxy).rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {url!r} is no address", hint="write it as http://HOST:PORT")
    key = read_text(absolute(args.key_file)).strip() if args.key_file else ""
    if any(not char.isprintable() or char == " " for char in key):
        raise ConfigError(f"{args.key_file} does not hold one key", hint="put it there alone, on one line")
    return Where(url, args.model or BARE, key, args.timeout, args.tries)


async def _inquired(
    args: argparse.Namespace, terminal: Terminal, settings: Config, work: _Work, where: Where, file: MadeFile
) -> tuple[Base, Tally] | Refuse:
    import asyncio

    from gaiad.gpu.identity import base_identity
    from gaiad.learner.base_model import reached
    from gaiad.learner.inquiry import Inquiry, Manner

    async with reached(where, args.concurrency) as base:
        who = await base.identity()
        # Only where the settings say which files are served.
        if args.config and not args.url and settings.engine.base_model:
            digest = await asyncio.to_thread(base_identity, settings.engine.base_model, who.served)
            who = replace(who, digest=digest[:16])
        stranger = next((row.base for row in file.rows if not row.base.is_same(who)), None)
        if stranger is not None:
            return Refuse(
                f"{work.out} holds what another base said ({stranger.served}), and {who.served} serves now",
                "give --anew to begin without it, or name another file with --out",
            )
        before = [row for row in file.rows if work.asks.uses(row)]
        work.asks.knows(before)
        questions = islice(work.asks.questions(frozenset(row.key for row in file.rows)), args.ask)
        sampling = {"temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens}
        manner = Manner(sampling, args.concurrency, args.keep - len(before), args.deadline)
        progress = _Progress(terminal, args.keep, len(before))
        tally = await Inquiry(base, who, questions, file, work.asks.judge, manner, progress.show).run()
        progress.end()
        return who, tally


class _Progress:
    """One line that is rewritten on a terminal; elsewhere, and beside JSON, nothing."""

    def __init__(self, terminal: Terminal, wanted: int, before: int) -> None:
        self._out, self._wanted, self._before, self._last = terminal.err, wanted, before, ""
        self._is_shown = terminal.err.isatty() and not terminal.as_json

    def show(self, tally: Tally) -> None:
        """Show how many are kept, and what became of the others."""
        if not self._is_shown:
            return
        kept, refused, failed = self._before + tally.kept, sum(tally.refused.values()), sum(tally.failed.values())
        line = f"{bar(kept / self._wanted)} {kept}/{self._wanted} kept, {refused} refused, {failed} failed"
        print(f"\r{line:<{len(self._last)}}", end="", file=self._out, flush=True)
        self._last = line

    def end(self) -> None:
        """Leave the last line standing."""
        if self._is_shown and self._last:
            print(file=self._out)


def _told(terminal: Terminal, work: _Work, file: MadeFile, who: Base, tally: Tally, *, is_shown: bool) -> int:
    from gaiad.learner.inquiry import Ended

    in_all = sum(map(work.asks.uses, file.rows))
    outdated = sum(row.is_kept for row in file.rows) - in_all
    place = f"{work.out}, as it was: what was made waits for the next run" if file.rows else "none, as nothing was made"
    answer = {
        "what": work.what,
        "path": str(work.out),
        "base": asdict(who),
        "proposed": tally.proposed,
        "kept": tally.kept,
        "kept_in_all": in_all,
        "outdated": outdated,
        "published": is_shown,
        "made_in_all": len(file.rows),
        "refused": dict(tally.refused.most_common()),
        "failed": dict(tally.failed.most_common()),
        "not_asked": dict(Counter(work.skipped).most_common()),
        "unusable_lines": file.unusable,
        "ended": str(tally.ended),
    }
    lines = [
        ("what", f"{work.what}, by {who.served}"),
        ("kept", f"{tally.kept} of {tally.proposed} made now; {in_all} of {len(file.rows)} in the file"),
        *((f"refused: {reason}", str(count)) for reason, count in tally.refused.most_common()),
        *((f"failed: {reason}", str(count)) for reason, count in tally.failed.most_common()),
        *((f"not asked: {reason}", str(count)) for reason, count in Counter(work.skipped).most_common()),
        *([("outdated", f"{outdated} kept ones, whose request there is no more")] if outdated else []),
        ("ended", str(tally.ended)),
        ("file", str(work.out) if is_shown else place),
    ]
    terminal.show(answer, pairs(lines))
    if tally.ended is Ended.TIME_IS_UP:
        return REFUSED
    return DONE if in_all else FAILED
