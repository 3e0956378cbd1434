"""The way of one inference request: read, route, wait for the gate, forward, tell what came of it.

Holds a lease exactly while the engine works on the request, and releases it whatever happens. The decisions are made
in `ask`, `routing`, `dialect` and `validity`, and by the consent port; waiting happens in the admission port. What it
tells afterwards (the live guard, the recorder) neither delays nor fails a reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import msgspec
import structlog
from aiohttp import web

from gaiad.consent import header_in_short
from gaiad.errors import Refuse
from gaiad.exchange import ExchangeRecord
from gaiad.keys import Key
from gaiad.options import StageOptions
from gaiad.proxy.ask import Ask, read_ask
from gaiad.proxy.body import decoded
from gaiad.proxy.dialect import Rewritten, conflicting, for_engine
from gaiad.proxy.early import EarlyHeaders
from gaiad.proxy.endpoints import COMPLETIONS, Endpoint, Form
from gaiad.proxy.forms import EventRenamer, event_of, is_said_to_the_end, refusal, whole_reply, with_model
from gaiad.proxy.forms import said_by as said_in
from gaiad.proxy.incoming import REQUEST_ID_HEADER, body_now, new_request_id, read_body
from gaiad.proxy.options import FencedStream, fenced_reply, optioned
from gaiad.proxy.overflow import reworded
from gaiad.proxy.ports import Lease
from gaiad.proxy.refusals import (
    Rejection,
    engine_failed,
    engine_timeout,
    not_now,
    not_served_by_engine,
    too_many_at_once,
)
from gaiad.proxy.relay import Ending, EventStream, StreamRelay
from gaiad.proxy.rename import ChunkRenamer, Renamer, renamed_reply
from gaiad.proxy.replies import body_of, passed_on, rejected
from gaiad.proxy.routing import Serve, may_come_to_serve
from gaiad.proxy.said import Said, copy_of, said_by, said_in_short
from gaiad.proxy.sampling import sampling_of
from gaiad.proxy.shared import Shared
from gaiad.proxy.stored import closed_response
from gaiad.proxy.upstream import BrokenOff, Call, NotConnected, NotTaken
from gaiad.proxy.validity import CLIENT_GONE_STATUS, Validity, judge, outcome_of
from gaiad.proxy.ways import Way, labels
from gaiad.proxy.whole import header_lines
from gaiad.rollout import ReplyOutcome

_log = structlog.get_logger()

RECONNECT_PAUSE_S = 0.2
MOST_RESETS = 3
NO_ROUTE = b'{"detail":"Not Found"}'
"""What vLLM says of a path that its model has no use for: no shape that a client of OpenAI's could read."""
FAULT_STATUS = 500
_NOBODY: frozenset[str] = frozenset()
_NOTHING_SAID = Said()
_AS_ASKED = StageOptions()


class Inference:
    """One request from its first byte to its record."""

    # What most requests never change stands here once.
    _purposes = _NOBODY
    _serve: Serve | None = None
    _way: Way | None = None
    _rewritten = Rewritten(b"")
    _unready = ""
    _resets = 0
    _payloads: Sequence[bytes] = ()
    _said: Said | None = None
    _first_byte_at: float | None = None
    _stream: EventStream | None = None
    _early: EarlyHeaders | None = None
    _option: StageOptions | None = None
    _complete = False
    _broke = False
    _validity: Validity | None = None
    _status = CLIENT_GONE_STATUS

    def __init__(self, shared: Shared, request: web.BaseRequest, endpoint: Endpoint, key: Key | None) -> None:
        self._arrived_wall = time.time()
        self._arrived = time.monotonic()
        self.request_id = new_request_id(self._arrived_wall)
        self._shared = shared
        self._deps = shared.deps
        self._request = request
        self._endpoint = endpoint
        self._form = endpoint.form
        self._is_completion = endpoint.form in COMPLETIONS
        self._key = key

    async def run(self) -> web.StreamResponse:
        """Answer the request; only a client that went away gets nothing."""
        deps, request = self._deps, self._request
        config, errand = deps.config, self._form is Form.PLAIN
        raw = body_now(request, config.proxy) or await read_body(request, config.proxy)
        if isinstance(raw, Rejection):
            return self._reject(raw, None)
        ask = read_ask(raw, request.headers, config, deps.rules, self._key, errand=errand)
        if isinstance(ask, Rejection):
            return self._reject(ask, None)
        if errand:
            return await self._run_errand(ask)
        self._option = config.options.get(ask.stage.stage)
        # What holds now, and still holds at the end, may be kept: a grant does not reach back into a running request.
        self._purposes = self._allowed(ask)
        has_turn = self._shared.turns.take(ask.user)
        try:
            early = self._early_rejection(ask) if has_turn else too_many_at_once(self._shared.turns.limit)
            if early is not None:
                return self._reject(early, ask)
            if ask.stream and config.proxy.early_headers_s:
                return await self._answer_with_early_headers(ask, config.proxy.early_headers_s)
            return await self._answer(ask)
        except asyncio.CancelledError:
            # Cut by the daemon's own end, or left by its client.
            self._broke = self._broke or self._shared.stopping.is_set()
            raise
        except Exception:
            self._broke = True
            if self._begun() is None:
                self._status = FAULT_STATUS
            raise
        finally:
            if has_turn:
                self._shared.turns.give_back(ask.user)
            self._leave_record(ask)

    async def _run_errand(self, ask: Ask) -> web.StreamResponse:
        """Answer what leaves no row: nothing is said, and nobody's purpose is served."""
        early = self._early_rejection(ask)
        return await self._answer(ask) if early is None else self._reject(early, ask)

    def cut(self) -> web.StreamResponse | None:
        """End a stream that has begun so that its client knows it is not whole; None where none has begun."""
        begun = self._begun()
        self._broke = True
        if begun is not None and self._request.transport is not None:
            self._request.transport.close()
        return begun

    def _begun(self) -> EventStream | None:
        """The stream whose headers the client has, if any."""
        stream = self._stream or (self._early.stream if self._early else None)
        return stream if stream is not None and stream.prepared else None

    def _early_rejection(self, ask: Ask) -> Rejection | None:
        """What is wrong for good, so that nothing need be waited for; the rest is judged once the gate is open."""
        # 1. Replies of another key.
        closed = closed_response(ask, self._shared.names) if self._form is Form.RESPONSES else None
        if closed is not None:
            return closed
        # 2. Until the engine was asked, any name may be its own.
        known = self._deps.facts() is not None
        refused = self._prepared(ask) if known else None
        if known and refused is None:
            return None
        # 3. A name that is only not loaded now is waited for; what contradicts itself, or this path cannot do, is not.
        if known and not may_come_to_serve(ask.model, self._deps.snapshot()):
            return refused
        return conflicting(ask.fields) or (self._unable(ask) if known else None)

    def _unable(self, ask: Ask) -> Rejection | None:
        facts = self._deps.facts()
        return refusal(self._form, ask.fields, facts.version if facts else None)

    def _prepared(self, ask: Ask) -> Rejection | None:
        """Find the way and write what the engine gets, unless both are as they were; why it cannot be, else None."""
        way = self._shared.ways.find(ask)
        if isinstance(way, Rejection):
            return way
        if way is not self._way:
            rewritten = self._rewrite(ask, way)
            if isinstance(rewritten, Rejection):
                return rewritten
            self._way, self._rewritten = way, rewritten
        return None

    async def _answer_with_early_headers(self, ask: Ask, after_s: float) -> web.StreamResponse:
        """Answer, and let the client know meanwhile that it is not forgotten."""
        self._early = EarlyHeaders(self._request, after_s)
        answer = await self._early.during(self._answer(ask), lambda: self._stream_lines(ask, "text/event-stream"))
        stream = self._early.stream
        # 1. The engine was quick, or its stream went the way that was begun. 2. A refusal: the client has its 200.
        if stream is None or answer is stream:
            return answer
        self._status = stream.status
        body = body_of(answer)
        await self._break_off(stream, event_of(body, self._form) if answer.status >= 400 else None)
        return stream

    async def _answer(self, ask: Ask) -> web.StreamResponse:
        hold_s, admission = self._deps.config.proxy.hold_s, self._deps.admission
        deadline = self._arrived + hold_s
        while True:
            admitted: Lease | Refuse | None = admission.admit_now(is_user=ask.is_user)
            if admitted is None:
                left_s = max(0.0, deadline - time.monotonic())
                admitted = await admission.admit(is_user=ask.is_user, timeout_s=left_s)
            if isinstance(admitted, Refuse):
                return self._reject(not_now(admitted.reason, admitted.hint), ask)
            try:
                response = await self._attempt(ask, admitted)
            finally:
                admitted.release()
            if response is not None:
                return response
            # The engine did nothing for the request: once the gate knows what is wrong, it is held there.
            if time.monotonic() + RECONNECT_PAUSE_S >= deadline:
                return self._reject(not_now(f"{self._unready} for {hold_s:g} s", "see gaiadctl status"), ask)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _attempt(self, ask: Ask, lease: Lease) -> web.StreamResponse | None:
        """Forward under `lease`; None where the engine is not ready: no connection, or not this version."""
        # 1. Waiting may have changed what is active: route anew, and pin before anything else can happen.
        refused = self._prepared(ask)
        if refused is not None:
            return self._reject(refused, ask)
        assert self._way is not None
        self._serve = self._way.serve
        lease.pin(self._serve.version)
        body, upstream, path = self._rewritten.body, self._shared.upstream, self._endpoint.path
        try:
            call = upstream.send_now(path, body, self.request_id)
            call = call or await upstream.send("POST", path, body, self.request_id)
        except NotConnected:
            self._unready = "the engine could not be reached"
            return None
        # 2. A failure before the headers is an error reply. However it ends, the engine stops working on it.
        try:
            if not call.started:
                await call.head()
            if call.is_stream:
                return await self._relay_stream(ask, call)
            return await self._relay_whole(ask, call)
        except NotTaken as error:
            return self._was_not_taken(ask, error)
        except TimeoutError:
            return self._reject(engine_timeout(self._deps.config.proxy.upstream_timeout_s), ask)
        except BrokenOff as error:
            _log.warning("engine_broke_off", request_id=self.request_id, error=str(error))
            return self._reject(engine_failed(str(error)), ask)
        finally:
            call.close()

    def _was_not_taken(self, ask: Ask, error: NotTaken) -> web.StreamResponse | None:
        """What dies takes no more: the request goes back to waiting, but not for ever before one that lives."""
        self._resets += 1
        if self._resets > MOST_RESETS:
            return self._reject(engine_failed(str(error)), ask)
        self._unready = "the engine took no request"
        return None

    async def _relay_whole(self, ask: Ask, call: Call) -> web.StreamResponse | None:
        raw = call.taken() if call.ended else await call.whole()
        if self._is_missing(call.status, raw):
            return None
        self._status = call.status
        self._first_byte_at = call.first_byte_at
        if call.status == 200:
            self._payloads = [raw]
            self._finish(ask)
            raw = self._for_client(ask, raw)
        elif call.status == 400:
            raw = reworded(raw)
        elif call.status == 404 and raw == NO_ROUTE:
            return self._reject(not_served_by_engine(self._endpoint.path), ask)
        return passed_on(call, raw, self._lines(ask), self._shared.outbox)

    def _for_client(self, ask: Ask, raw: bytes) -> bytes:
        """A whole reply as the client is to have it."""
        asked = self._model_for_client(ask)
        if not self._is_completion:
            return with_model(raw, self._form, asked)
        raw = renamed_reply(raw, told=self._told(), asked=asked)
        return fenced_reply(raw) if self._is_fenced() else raw

    def _is_missing(self, status: int, raw: bytes) -> bool:
        """Whether the engine lacks the version that was chosen: started anew, or told to unload it by somebody else."""
        version = self._serve.version if self._serve else None
        if status != 404 or version is None or b"does not exist" not in raw or version.encode() not in raw:
            return False
        if not self._unready:
            _log.warning("engine_lacks_version", request_id=self.request_id, version=version)
        self._unready = f"the engine did not have {version}"
        return True

    async def _relay_stream(self, ask: Ask, call: Call) -> web.StreamResponse:
        self._status = call.status
        await call.first()
        self._first_byte_at = call.first_byte_at
        renamer = self._renamer(ask)
        self._payloads = renamer.payloads
        first = renamer.feed(call.taken())
        if renamer.error_event is not None and not first:
            return self._reject(engine_failed("it broke off before the first token"), ask)
        response = self._stream = self._taken_over() or self._new_stream(ask, call)
        match await StreamRelay(call, renamer, response, self._request).run(first):
            case Ending.WHOLE:
                self._finish(ask)
            case Ending.CLIENT_GONE:
                pass
            case Ending.ENGINE_BROKE:
                await self._break_off(response, renamer.error_event)
            case other:
                assert_never(other)
        return response

    def _new_stream(self, ask: Ask, call: Call) -> EventStream:
        return EventStream(status=call.status, lines=self._stream_lines(ask, call.header("content-type")))

    def _renamer(self, ask: Ask) -> Renamer:
        asked = self._model_for_client(ask)
        if not self._is_completion:
            return EventRenamer(self._form, asked=asked)
        renamer = ChunkRenamer(told=self._told(), asked=asked, hide_usage=self._rewritten.hide_usage)
        return FencedStream(renamer) if self._is_fenced() else renamer

    def _is_fenced(self) -> bool:
        return self._option is not None and self._option.fence_json and self._form is Form.CHAT

    def _taken_over(self) -> EventStream | None:
        """The stream that was begun before the engine answered, if one was; from here on nobody else writes to it."""
        if self._early is None:
            return None
        self._early.end()
        return self._early.stream

    async def _break_off(self, response: EventStream, told: bytes | None) -> None:
        """End a stream whose engine failed, as the owner chose: with one error event, or by closing."""
        self._broke = True
        _log.warning("engine_broke_stream", request_id=self.request_id)
        if self._deps.config.proxy.stream_errors == "close":
            self.cut()
            return
        own = json.dumps(engine_failed("it broke off in mid-stream").body()).encode()
        with contextlib.suppress(ConnectionError):
            await response.write(told or event_of(own, self._form))

    def _finish(self, ask: Ask) -> None:
        """The reply is whole: judge it and tell at once, before the last byte is on its way."""
        self._complete = True
        try:
            schema = self._schema(ask)
            said = self._said = self._summed_up(ask, in_full=schema is not None)
            # An engine that says of its own reply that it failed is no evidence against a version.
            self._complete = said is not None
            self._broke = said is None
            if said is not None and self._form is not Form.PLAIN:
                self._judge(ask, said, schema)
        except Exception as error:  # noqa: BLE001 - the reply is good: what is only noted about it may not spoil it
            _log.error("reply_not_judged", request_id=self.request_id, error=type(error).__name__)

    def _summed_up(self, ask: Ask, *, in_full: bool) -> Said | None:
        """What was said; None where the engine says that it failed."""
        if self._is_completion:
            return said_by(self._payloads) if in_full else said_in_short(self._payloads)
        if self._form is Form.RESPONSES:
            whole = whole_reply(self._form, self._payloads)
            self._shared.names.note(whole.get("id"), self._model_for_client(ask), ask.key.name if ask.key else None)
            if whole.get("status") == "failed":
                return None
        return said_in(self._form, self._payloads)

    def _schema(self, ask: Ask) -> Mapping[str, Any] | None:
        """What the reply is held to: the schema of its stage, where it comes from what serves that stage."""
        stage, serve = ask.stage.stage, self._serve
        schema = self._deps.stage_schemas().get(stage)
        return schema if serve is not None and serve.answers_for(stage, self._deps.config.stages) else None

    def _judge(self, ask: Ask, said: Said, schema: Mapping[str, Any] | None) -> None:
        validity = self._validity = judge(said, schema)
        self._deps.on_reply(
            ReplyOutcome(
                version=self._serve.version if self._serve else None,
                stage=ask.stage.stage,
                request_id=self.request_id,
                schema_ok=validity.schema_ok,
                empty=validity.empty,
                truncated=validity.truncated,
            )
        )

    def _allowed(self, ask: Ask) -> frozenset[str]:
        """What the exchange may be kept for as of now."""
        if ask.user is None:
            return _NOBODY
        try:
            allowed = self._deps.consent(ask.user, ask.consent, ask.conversation)
            return allowed if ask.key is None else ask.key.narrowed(allowed)
        except Exception as error:  # noqa: BLE001 - without a decision nothing may be kept, and the reply goes its way
            _log.error("consent_not_decided", request_id=self.request_id, error=type(error).__name__)
            return _NOBODY

    def _leave_record(self, ask: Ask) -> None:
        """Offer what the exchange leaves behind to the recorder's queue, for the purposes that still hold."""
        try:
            # Whoever leaves with the last word, before the engine's own end, had the whole reply.
            is_left = self._stream is not None and not self._complete and not self._broke
            if is_left and is_said_to_the_end(self._form, self._payloads):
                self._finish(ask)
            purposes = self._purposes & self._allowed(ask) if self._purposes else _NOBODY
            self._deps.offer(self._record(ask, purposes))
        except Exception as error:  # noqa: BLE001 - recording neither delays nor fails a reply
            _log.error("exchange_not_offered", request_id=self.request_id, error=type(error).__name__)

    def _record(self, ask: Ask, purposes: frozenset[str]) -> ExchangeRecord:
        """The row of this exchange; what was said and by whom stands in it only for a purpose."""
        said, serve = self._said or _NOTHING_SAID, self._serve
        row = ExchangeRecord(
            request_id=self.request_id,
            at=time.time(),
            stage=ask.stage.stage,
            stage_reason=ask.stage.reason,
            version=serve.version if serve else None,
            arm=serve.arm if serve else "none",
            status=self._status,
            prompt_tokens=said.prompt_tokens,
            completion_tokens=said.completion_tokens,
            started=self._arrived_wall,
            first_byte_ms=(self._first_byte_at - self._arrived) * 1000 if self._first_byte_at else None,
            total_ms=(time.monotonic() - self._arrived) * 1000,
            finish_reason=said.finish_reason,
            streamed=ask.stream,
            complete=self._complete,
            valid=self._validity.valid if self._validity else None,
            outcome=outcome_of(complete=self._complete, broke=self._broke, status=self._status),
        )
        if not purposes:
            return row
        facts = self._deps.facts()
        return msgspec.structs.replace(
            row,
            user=ask.user,
            conversation=ask.conversation,
            purposes=purposes,
            request=decoded(ask.fields),
            response=self._copy(ask) if self._payloads else None,
            consent_header=header_in_short(ask.consent),
            sampling=sampling_of(optioned(ask.fields, self._option or _AS_ASKED, self._form, "")),
            engine=facts.digest if facts else "",
            template=facts.template if facts else "",
            is_user=ask.is_user,
        )

    def _copy(self, ask: Ask) -> dict[str, Any]:
        """The reply as it is kept: whole, or as far as it came."""
        asked = self._model_for_client(ask)
        if self._is_completion:
            return copy_of(self._payloads).body(asked)
        return {**whole_reply(self._form, self._payloads), "model": asked}

    def _rewrite(self, ask: Ask, way: Way) -> Rewritten | Rejection:
        fields = ask.fields
        unable = refusal(self._form, fields, way.engine_version)
        if unable is not None:
            return unable
        if self._option is not None:
            fields = optioned(fields, self._option, self._form, self._deps.preludes.get(ask.stage.stage, ""))
        return for_engine(fields, model=way.model, engine_version=way.engine_version, form=self._form)

    def _told(self) -> str:
        """The name that the engine was asked for, and answers under."""
        return self._way.told if self._way else self._shared.ways.served_name()

    def _model_for_client(self, ask: Ask) -> str:
        return self._way.asked if self._way else ask.model or self._shared.ways.served_name()

    def _reject(self, rejection: Rejection, ask: Ask | None) -> web.Response:
        self._status = rejection.status
        return rejected(rejection, self._headers(ask))

    def _headers(self, ask: Ask | None) -> dict[str, str]:
        return {REQUEST_ID_HEADER: self.request_id, **labels(ask.stage if ask else None, self._serve)}

    def _lines(self, ask: Ask) -> str:
        """The same as they stand on the wire."""
        if self._serve is None or self._way is None:
            return header_lines(self._headers(ask))
        return f"{REQUEST_ID_HEADER}: {self.request_id}\r\n{self._way.lines}"

    def _stream_lines(self, ask: Ask, content_type: str) -> str:
        return f"{self._lines(ask)}Content-Type: {content_type}\r\nCache-Control: no-cache\r\n"
