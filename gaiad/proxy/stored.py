"""Replies that the engine keeps under an id: read or cancelled by whoever knows it, or whose key asked.

Touches the gate and the engine, as `inference` does, for a request that has no body: a lease while the engine is asked,
no stage, no row. The name in `model` is the one that the reply was asked for under, as long as it is remembered.
"""

from __future__ import annotations

import time

from aiohttp import web

from gaiad.adapter import version_parts
from gaiad.errors import Refuse
from gaiad.keys import Key
from gaiad.proxy.ask import Ask
from gaiad.proxy.body import given, value_of
from gaiad.proxy.endpoints import Form, StoredResponse
from gaiad.proxy.forms import with_model
from gaiad.proxy.incoming import REQUEST_ID_HEADER, new_request_id
from gaiad.proxy.ports import ProxyDeps
from gaiad.proxy.refusals import Rejection, bad_request, engine_failed, engine_timeout, not_now, unknown_response
from gaiad.proxy.rename import read_reply
from gaiad.proxy.replies import passed_on, rejected
from gaiad.proxy.upstream import BrokenOff, NotConnected, NotTaken, Upstream
from gaiad.proxy.whole import header_lines

REMEMBERED = 10_000


class AskedNames:
    """Under which name each of the last replies was asked for, and with whose key."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, str | None]] = {}

    def note(self, reply_id: object, name: str, owner: str | None) -> None:
        """Remember a reply, and forget the oldest where there are too many."""
        if not isinstance(reply_id, str):
            return
        # An id's owner stays: whoever made the engine use it again gains nothing by that.
        if reply_id in self._names and self._names[reply_id][1] != owner:
            return
        self._names[reply_id] = name, owner
        if len(self._names) > REMEMBERED:
            del self._names[next(iter(self._names))]

    def of(self, reply_id: str) -> str | None:
        """The name, or None where it is not, or no longer, known."""
        return self._names.get(reply_id, (None, None))[0]

    def is_owned_by(self, reply_id: str, owner: str) -> bool:
        """Whether a reply is known to have been asked for with this key."""
        return self._names.get(reply_id, (None, None))[1] == owner


def closed_response(ask: Ask, names: AskedNames) -> Rejection | None:
    """Where keys are wanted: no other key's reply may be gone on with, nor may a client choose a reply's id."""
    if ask.key is None:
        return None
    if given(ask.fields, "request_id"):
        return bad_request("`request_id` is not the client's to choose here.", param="request_id")
    if not given(ask.fields, "previous_response_id"):
        return None
    earlier = value_of(ask.fields, "previous_response_id")
    if isinstance(earlier, str) and names.is_owned_by(earlier, ask.key.name):
        return None
    return unknown_response(str(earlier))


class StoredReply:
    """One request for a kept reply."""

    def __init__(
        self, deps: ProxyDeps, upstream: Upstream, stored: StoredResponse, names: AskedNames, key: Key | None
    ) -> None:
        self._deps = deps
        self._upstream = upstream
        self._stored = stored
        self._names = names
        self._key = key
        self.request_id = new_request_id(time.time())

    async def answer(self, query: str) -> web.StreamResponse:
        """Ask the engine, once it may be asked."""
        if query:
            return self._rejected(bad_request("A kept response is read whole: no query is served here.", param="query"))
        # Where keys are wanted an id alone opens nothing: another key's reply does not exist, nor does a forgotten one.
        if self._key is not None and not self._names.is_owned_by(self._stored.id, self._key.name):
            return self._rejected(unknown_response(self._stored.id))
        admission = self._deps.admission
        lease = admission.admit_now(is_user=False)
        admitted = lease or await admission.admit(is_user=False, timeout_s=self._deps.config.proxy.hold_s)
        if isinstance(admitted, Refuse):
            return self._rejected(not_now(admitted.reason, admitted.hint))
        try:
            return await self._asked_for()
        except (NotConnected, NotTaken):
            return self._rejected(not_now("the engine could not be reached", "see gaiadctl status"))
        except TimeoutError:
            return self._rejected(engine_timeout(self._deps.config.proxy.upstream_timeout_s))
        except BrokenOff as error:
            return self._rejected(engine_failed(str(error)))
        finally:
            admitted.release()

    async def _asked_for(self) -> web.StreamResponse:
        call = await self._upstream.send(self._stored.method, self._stored.path, b"", self.request_id)
        try:
            raw = await call.whole()
        finally:
            call.close()
        if call.status == 200:
            raw = with_model(raw, Form.RESPONSES, self._name(raw))
        return passed_on(call, raw, header_lines({REQUEST_ID_HEADER: self.request_id}))

    def _name(self, raw: bytes) -> str:
        """What the client asked for; else the name by which the engine's own may be asked for."""
        told = str((read_reply(raw) or {}).get("model"))
        parts = version_parts(told)
        return self._names.of(self._stored.id) or (parts.adapter if parts else told)

    def _rejected(self, rejection: Rejection) -> web.Response:
        return rejected(rejection, {REQUEST_ID_HEADER: self.request_id})
