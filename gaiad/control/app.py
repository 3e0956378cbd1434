"""The control interface: JSON over HTTP on a Unix socket that only its owner may open.

Parses requests, calls `Commands`, shapes answers and errors. Decides nothing: a refusal comes back as a value and
leaves as 409, something unknown as 404, a failure as 400 or 503, always `{"error": {"message", "hint"}}`. The
routes are described in `docs/control.md`; a test holds page and table equal.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import structlog
from aiohttp import web

from gaiad.control.listener import Listener
from gaiad.control.metrics import CONTENT_TYPE, metrics_of
from gaiad.errors import AdapterError, ConfigError, CurriculumError, DatasetError, GaiadError, NotYet, Refuse
from gaiad.exchange import Judgement, is_score, verdict_word

log = structlog.get_logger()

_END_OF_TIME = 1e11

Reply: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing of that name exists; `hint` says where to look."""

    reason: str
    hint: str = ""


Answer: TypeAlias = "Reply | Refuse | NotYet | Unknown"


class Commands(Protocol):
    """What the socket may ask of the daemon; `control.commands` has the real one."""

    async def status(self) -> Reply:
        """Everything `gaiadctl status` shows."""

    async def train(self, adapter: str, profile: str | None, *, force: bool) -> Answer:
        """Start a cycle; `force` starts one even where nothing is new."""

    async def cancel(self) -> Answer:
        """End the current cycle; serving goes on."""

    async def cycles(self, limit: int) -> Reply:
        """Past and current cycles, newest first."""

    async def cycle_page(self, name: str) -> Answer:
        """One cycle drawn as a page."""

    async def adapters(self) -> Reply:
        """Each adapter with its versions."""

    async def adapter(self, name: str) -> Answer:
        """One adapter, or one version with its report."""

    async def import_adapter(self, directory: Path, name: str | None, *, activate: bool, reason: str) -> Answer:
        """Take in an adapter that was trained elsewhere."""

    async def rollback(self, adapter: str, reason: str) -> Answer:
        """Flip to the previous version, or to the base."""

    async def consent(
        self, user: str, purpose: str, action: str, conversation: str | None, expires_at: float | None
    ) -> Answer:
        """Append a grant or a revocation, for one conversation or all, until a moment or for good."""

    async def consents(self, user: str, conversation: str | None, limit: int) -> Reply:
        """What a user granted, in one conversation or outside of any, and the newest of its history."""

    async def erase(self, kind: str, name: str, *, dry_run: bool) -> Answer:
        """Erase what is named, or say what that would reach."""

    async def erasures(self, limit: int) -> Reply:
        """Erasures with their reports, newest first."""

    async def exchanges(self, limit: int, user: str | None) -> Reply:
        """Kept exchanges, newest first."""

    async def exchange(self, request_id: str) -> Answer:
        """One exchange."""

    async def export(
        self, purpose: str, after: tuple[float, str] | None, limit: int, user: str | None, stage: str | None
    ) -> Reply:
        """The next exchanges that may be used for a purpose, with all that is kept of them."""

    async def explain(self, request_id: str) -> Answer:
        """Where a reply came from and what became of it."""

    async def feedback(self, request_id: str, given: Judgement) -> Answer:
        """Attach a verdict, and possibly a score, the right answer and a note, to an exchange."""

    async def backup(self, target: Path) -> Answer:
        """Copy the store to a new file."""


COMMANDS: web.AppKey[Commands] = web.AppKey("commands", Commands)
Route: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(commands: Commands) -> web.Application:
    """The application with every route of `docs/control.md`."""
    app = web.Application(middlewares=[_errors_as_json], client_max_size=1024 * 1024)
    app[COMMANDS] = commands
    app.add_routes(ROUTES)
    return app


@asynccontextmanager
async def serve(path: Path, commands: Commands) -> AsyncIterator[Listener]:
    """Listen on `path` while the block runs; raises ControlError where the path cannot be ours."""
    listener = Listener(path)
    runner = web.AppRunner(make_app(commands), access_log=None, shutdown_timeout=2.0)
    try:
        await runner.setup()
        await web.SockSite(runner, listener.socket).start()
        yield listener
    finally:
        await runner.cleanup()
        listener.close()


# --- routes -----------------------------------------------------------------------------------------------------


async def _status(request: web.Request) -> web.Response:
    return _json(200, await request.app[COMMANDS].status())


async def _metrics(request: web.Request) -> web.Response:
    store = (await request.app[COMMANDS].status()).get("store")
    text = metrics_of(store if isinstance(store, Mapping) else {})
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


async def _train(request: web.Request) -> web.Response:
    body = await _body(request, "adapter", "profile", "force")
    answer = await request.app[COMMANDS].train(
        _text(body, "adapter"), _optional_text(body, "profile"), force=_flag(body, "force")
    )
    return _answered(answer, 202)


async def _cancel(request: web.Request) -> web.Response:
    return _answered(await request.app[COMMANDS].cancel())


async def _cycles(request: web.Request) -> web.Response:
    return _json(200, await request.app[COMMANDS].cycles(_limit(request, 20)))


async def _cycle_page(request: web.Request) -> web.Response:
    return _answered(await request.app[COMMANDS].cycle_page(request.match_info["id"]))


async def _adapters(request: web.Request) -> web.Response:
    return _json(200, await request.app[COMMANDS].adapters())


async def _adapter(request: web.Request) -> web.Response:
    return _answered(await request.app[COMMANDS].adapter(request.match_info["name"]))


async def _import(request: web.Request) -> web.Response:
    body = await _body(request, "directory", "name", "activate", "reason")
    directory = Path(_text(body, "directory"))
    if not directory.is_absolute():
        raise _bad_request("'directory' must be an absolute path", "the daemon has a working directory of its own")
    activate, reason = _flag(body, "activate"), _optional_text(body, "reason") or ""
    if activate and not reason.strip():
        raise _bad_request("'activate' needs a 'reason'", "say in a few words why this version may skip the gate")
    answer = await request.app[COMMANDS].import_adapter(
        directory, _optional_text(body, "name"), activate=activate, reason=reason
    )
    return _answered(answer)


async def _rollback(request: web.Request) -> web.Response:
    body = await _body(request, "adapter", "reason")
    reason = _optional_text(body, "reason") or "asked for on the control socket"
    return _answered(await request.app[COMMANDS].rollback(_text(body, "adapter"), reason))


async def _consent(request: web.Request) -> web.Response:
    body = await _body(request, "user", "purpose", "action", "conversation", "expires_at")
    answer = await request.app[COMMANDS].consent(
        _text(body, "user"),
        _choice(body, "purpose", ("log", "train", "evaluate")),
        _choice(body, "action", ("grant", "revoke")),
        _optional_text(body, "conversation"),
        _moment(body, "expires_at"),
    )
    return _answered(answer)


async def _consents(request: web.Request) -> web.Response:
    conversation = request.query.get("conversation")
    return _json(
        200, await request.app[COMMANDS].consents(request.match_info["user"], conversation, _limit(request, 100))
    )


async def _erase(request: web.Request) -> web.Response:
    body = await _body(request, "kind", "name", "dry_run")
    kind = _choice(body, "kind", ("user", "conversation", "exchange"))
    return _answered(
        await request.app[COMMANDS].erase(kind, _text(body, "name").strip(), dry_run=_flag(body, "dry_run"))
    )


async def _erasures(request: web.Request) -> web.Response:
    return _json(200, await request.app[COMMANDS].erasures(_limit(request, 20)))


async def _exchanges(request: web.Request) -> web.Response:
    user = request.query.get("user")
    return _json(200, await request.app[COMMANDS].exchanges(_limit(request, 20), user))


async def _exchange(request: web.Request) -> web.Response:
    return _answered(await request.app[COMMANDS].exchange(request.match_info["id"]))


async def _export(request: web.Request) -> web.Response:
    query = request.query
    purpose = _choice(query, "purpose", ("log", "train", "evaluate"))
    answer = await request.app[COMMANDS].export(
        purpose, _place(query.get("after")), _limit(request, 50), query.get("user"), query.get("stage")
    )
    return _json(200, answer)


async def _explain(request: web.Request) -> web.Response:
    return _answered(await request.app[COMMANDS].explain(request.match_info["id"]))


async def _feedback(request: web.Request) -> web.Response:
    body = await _body(request, "request_id", "verdict", "score", "correction", "note")
    given = Judgement(_verdict(body), _optional_text(body, "correction"), _score(body), _optional_text(body, "note"))
    return _answered(await request.app[COMMANDS].feedback(_text(body, "request_id"), given))


async def _backup(request: web.Request) -> web.Response:
    target = Path(_text(await _body(request, "path"), "path"))
    if not target.is_absolute() or not target.name:
        raise _bad_request("'path' must be an absolute path of a file", "the daemon has a working directory of its own")
    return _answered(await request.app[COMMANDS].backup(target))


ROUTES: tuple[web.RouteDef, ...] = (
    web.get("/status", _status),
    web.get("/metrics", _metrics),
    web.post("/train", _train),
    web.post("/cancel", _cancel),
    web.get("/cycles", _cycles),
    web.get("/cycles/{id}/page", _cycle_page),
    web.get("/adapters", _adapters),
    web.post("/adapters/import", _import),
    web.get("/adapters/{name}", _adapter),
    web.post("/rollback", _rollback),
    web.post("/consent", _consent),
    web.get("/consent/{user}", _consents),
    web.post("/erase", _erase),
    web.get("/erasures", _erasures),
    web.get("/exchanges", _exchanges),
    web.get("/exchanges/{id}", _exchange),
    web.get("/export", _export),
    web.get("/explain/{id}", _explain),
    web.post("/feedback", _feedback),
    web.post("/backup", _backup),
)


# --- parsing ----------------------------------------------------------------------------------------------------


async def _body(request: web.Request, *known: str) -> Mapping[str, object]:
    raw = await request.read()
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _bad_request(f"the body is not JSON: {error}", "send a JSON object in UTF-8") from error
    if not isinstance(body, dict):
        raise _bad_request("the body must be a JSON object", f"its keys may be {', '.join(known)}")
    strange = sorted(set(body) - set(known))
    if strange:
        raise _bad_request(f"unknown key {strange[0]!r}", f"the keys here are {', '.join(known)}")
    return body


def _text(body: Mapping[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _bad_request(f"{key!r} must be a text that is not empty", f"send {{{json.dumps(key)}: ...}}")
    # Neither paths nor the store can hold these.
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise _bad_request(f"{key!r} holds characters that are no text", "send it in UTF-8, without zero bytes")
    return value


def _optional_text(body: Mapping[str, object], key: str) -> str | None:
    return None if body.get(key) is None else _text(body, key)


def _flag(body: Mapping[str, object], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise _bad_request(f"{key!r} must be true or false", "leave it out for false")
    return value


def _moment(body: Mapping[str, object], key: str) -> float | None:
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _END_OF_TIME:
        raise _bad_request(f"{key!r} must be a moment in seconds since 1970", "leave it out for a grant without an end")
    return float(value)


def _choice(body: Mapping[str, object], key: str, choices: tuple[str, ...]) -> str:
    value = _text(body, key)
    if value not in choices:
        raise _bad_request(f"{key!r} is {value!r}", f"it may be {', '.join(choices)}")
    return value


def _verdict(body: Mapping[str, object]) -> str:
    word = verdict_word(_text(body, "verdict"))
    if word is None:
        raise _bad_request("'verdict' is not one word", "use one word such as good or bad")
    return word


def _score(body: Mapping[str, object]) -> float | None:
    value = body.get("score")
    if value is not None and not is_score(value):
        raise _bad_request("'score' is not a number from 0 to 1", "leave it out where there is none")
    return value


def _place(text: str | None) -> tuple[float, str] | None:
    """Where a page begins, as the page before said."""
    if text is None:
        return None
    at, _, request_id = text.partition(" ")
    try:
        return float(at), request_id
    except ValueError as error:
        raise _bad_request(f"after is {text[:50]!r}", "send back `next` of the page before") from error


def _limit(request: web.Request, default: int) -> int:
    text = request.query.get("limit", str(default))
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1000:
        raise _bad_request(f"limit is {text[:20]!r}", "it may be 1 to 1000")
    return int(text)


# --- answers ----------------------------------------------------------------------------------------------------


@web.middleware
async def _errors_as_json(request: web.Request, handler: Route) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.content_type == "application/json":
            raise
        return _error(error.status, f"{request.method} {request.path}: {error.reason}", "see docs/control.md")
    except (AdapterError, ConfigError, CurriculumError, DatasetError) as error:
        return _error(400, error.message, error.hint)
    except GaiadError as error:
        return _error(503, error.message, error.hint)
    except Exception:  # the loop's edge: a bug in one command must not end serving
        log.exception("control_command_failed", method=request.method, path=request.path)
        return _error(500, "gaiad failed to carry this out", "the daemon's log has the traceback")


def _answered(answer: Answer, status: int = 200) -> web.Response:
    if isinstance(answer, Refuse):
        return _error(409, answer.reason, answer.hint)
    if isinstance(answer, NotYet):
        return _error(409, answer.reason, "ask again later; `gaiadctl status` tells when")
    if isinstance(answer, Unknown):
        return _error(404, answer.reason, answer.hint)
    return _json(status, answer)


def _bad_request(message: str, hint: str) -> web.HTTPBadRequest:
    text = json.dumps({"error": {"message": message, "hint": hint}})
    return web.HTTPBadRequest(text=text, content_type="application/json")


def _error(status: int, message: str, hint: str) -> web.Response:
    return _json(status, {"error": {"message": message, "hint": hint}})


def _json(status: int, body: Reply) -> web.Response:
    return web.json_response(dict(body), status=status, dumps=_dumps)


def _dumps(value: object) -> str:
    # ASCII, because what people said may hold halves of characters, which JSON can name and UTF-8 cannot.
    return json.dumps(value, default=_plain)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
