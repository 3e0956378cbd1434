"""A caller's own consent over the proxy: bound to who asks, off unless switched on, the same as the owner's command."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gaiad.config import Config
from gaiad.control.commands import DaemonCommands
from gaiad.conversations import Conversations
from gaiad.cycles import Cycles
from gaiad.db import Database
from gaiad.errors import Refuse
from gaiad.keyfile import WatchedKeys, change_keys, new_key
from gaiad.proxy.app import Door, listen
from gaiad.registry import Registry
from tests.fakes.proxy_world import World, serving, world_of
from tests.fakes.vllm_process import RunningVllm, running_vllm

CONSENT = "/v1/gaia/consent"
GRANT = {"purpose": "log", "action": "grant"}


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    # No engine is asked.
    async with serving(world_of("http://127.0.0.1:9", exchange_routes=True)) as served:
        yield served


async def ask(world: World, method: str, body: object = None, path: str = CONSENT, **headers: str) -> tuple[int, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, world.url + path, json=body, headers=named) as reply,
    ):
        return reply.status, await reply.json()


async def test_a_caller_says_and_sees_what_may_be_kept_of_them(world: World) -> None:
    before = time.time()
    asked = {**GRANT, "conversation": " c1 ", "expires_in_s": 60, "user": "ada"}
    status, body = await ask(world, "POST", asked, X_Gaia_User=" ada ")
    assert (status, body) == (200, {"user": "ada", "conversation": "c1", "granted": [], "history": []})
    (said,) = world.said
    assert said[:4] == ("ada", "log", "grant", "c1")
    assert said[4] is not None
    assert before + 60 <= said[4] <= time.time() + 60
    assert (await ask(world, "POST", {**GRANT, "action": "revoke"}, X_Gaia_User="ada"))[0] == 200
    assert world.said[1] == ("ada", "log", "revoke", None, None)
    world.grants["ada"] = frozenset({"log"})
    assert (await ask(world, "GET", path=f"{CONSENT}?conversation=c2", X_Gaia_User="ada"))[1] == {
        "user": "ada",
        "conversation": "c2",
        "granted": ["log"],
        "history": [],
    }
    for limit in ("0", "1001", "many", "-1"):
        assert (await ask(world, "GET", path=f"{CONSENT}?limit={limit}", X_Gaia_User="ada"))[0] == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({"action": "grant"}, "purpose"),
        ({"purpose": "sell", "action": "grant"}, "purpose"),
        ({"purpose": ["log"], "action": "grant"}, "purpose"),
        ({"purpose": "log", "action": "forget"}, "action"),
        ({**GRANT, "conversation": " "}, "conversation"),
        ({**GRANT, "conversation": 5}, "conversation"),
        ({**GRANT, "conversation": "x" * 1001}, "conversation"),
        ({**GRANT, "expires_in_s": 0}, "expires_in_s"),
        ({**GRANT, "expires_in_s": True}, "expires_in_s"),
        ({**GRANT, "expires_in_s": 10**300}, "expires_in_s"),
        ({**GRANT, "expires_in_s": "1d"}, "expires_in_s"),
        ({**GRANT, "action": "revoke", "expires_in_s": 5}, "expires_in_s"),
        ({**GRANT, "forever": True}, "forever"),
    ],
)
async def test_what_is_malformed_is_a_400_and_changes_nothing(world: World, body: object, param: str | None) -> None:
    status, told = await ask(world, "POST", body, X_Gaia_User="ada")
    assert (status, told["error"]["type"], told["error"]["param"]) == (400, "invalid_request_error", param)
    assert world.said == []


async def test_nobody_speaks_for_somebody_else_and_nobody_for_no_one(world: World) -> None:
    for named in ("bob", 5, "", "x" * 201):
        status, told = await ask(world, "POST", {**GRANT, "user": named}, X_Gaia_User="ada")
        assert (status, told["error"]["code"]) == (403, "not_your_consent")
    assert (await ask(world, "GET", path=f"{CONSENT}?user=bob", X_Gaia_User="ada"))[0] == 403
    # A name in the body is no identity.
    for headers in ({}, {"X_Gaia_User": "x" * 201}):
        status, told = await ask(world, "POST", {**GRANT, "user": "ada"}, **headers)
        assert (status, told["error"]["code"]) == (403, "no_identity")
    assert (await ask(world, "GET"))[0] == 403
    assert world.said == []


async def test_a_caller_without_a_name_speaks_for_who_the_owner_says() -> None:
    world = world_of("http://127.0.0.1:9", exchange_routes=True)
    consent = dataclasses.replace(world.config.consent, anonymous_user="owner")
    world.config = dataclasses.replace(world.config, consent=consent)
    async with serving(world):
        assert (await ask(world, "POST", GRANT))[0] == 200
        assert (await ask(world, "POST", {**GRANT, "user": "ada"}))[0] == 403
    assert [one[0] for one in world.said] == ["owner"]


async def test_a_key_speaks_for_its_name_whatever_else_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made, key = new_key("ada", stages=None, consent=None, created=1.0)
    change_keys(path, lambda ring: ring.with_key(made))
    world = world_of("http://127.0.0.1:9", exchange_routes=True)
    world.keys = WatchedKeys(path).current
    async with serving(world):
        assert (await ask(world, "POST", GRANT, X_Gaia_User="ada"))[0] == 401
        bearer = {"Authorization": f"Bearer {key}", "X_Gaia_User": "bob"}
        assert (await ask(world, "POST", GRANT, **bearer))[1]["user"] == "ada"
        assert (await ask(world, "POST", {**GRANT, "user": "bob"}, **bearer))[0] == 403
    assert [one[0] for one in world.said] == ["ada"]


async def test_the_route_is_off_unless_it_is_switched_on() -> None:
    async with serving(world_of("http://127.0.0.1:9")) as world:
        for method in ("GET", "POST"):
            status, told = await ask(world, method, GRANT if method == "POST" else None, X_Gaia_User="ada")
            assert (status, told["error"]["code"]) == (404, "unknown_url")
    assert world.said == []


async def test_another_method_and_a_refusal_are_told_in_openais_shape(world: World) -> None:
    assert (await ask(world, "DELETE", X_Gaia_User="ada"))[1]["error"]["code"] == "method_not_allowed"
    world.consent_refusal = Refuse("the grant would have expired already", "let it end later")
    status, told = await ask(world, "POST", GRANT, X_Gaia_User="ada")
    assert (status, told["error"]["code"]) == (400, "consent_refused")


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningVllm]:
    with running_vllm() as fake:
        yield fake


async def test_the_consent_of_a_request_is_asked_for_its_conversation(engine: RunningVllm) -> None:
    async with serving(world_of(engine.url)) as world:
        body = {"messages": [{"role": "user", "content": "hi"}], "metadata": {"gaia_conversation": "c1"}}
        await ask(world, "POST", body, "/v1/chat/completions", X_Gaia_User="ada")
        await world.record()
    assert {*world.conversations} == {"c1"}


class Learner:
    """Remembers whose consent it was told of. Nobody asks it for an erasure or a backup."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def consent_revoked(self, user: str) -> None:
        self.told.append(user)

    async def backup(self, target: Path, at: float) -> Refuse | None:
        pytest.fail("nobody asked for a backup")


async def real(tmp_path: Path, learner: Any) -> tuple[Database, DaemonCommands]:
    database = await Database.open(Config(tmp_path, tmp_path / "control.sock"))
    conversations = Conversations(database)
    await conversations.load()
    commands = DaemonCommands(
        config=database.config,
        registry=Registry(database),
        cycles=Cycles(database),
        conversations=conversations,
        learner=learner,
        eraser=learner,
        observe=lambda: pytest.fail("nobody asked for the status"),
        flush=partial(conversations.keep, []),
        backup=learner.backup,
    )
    return database, commands


async def opened(world: World, commands: DaemonCommands) -> Door:
    """The proxy over the same commands as the control socket, joined as the daemon joins them."""
    change = partial(commands.consent, source="http")
    deps = dataclasses.replace(world.deps(), change_consent=change, consents=commands.consents)
    door = await listen(deps, "127.0.0.1", 0)
    world.url = "http://{}:{}".format(*door.addresses[0][:2])
    return door


async def test_a_revocation_over_the_proxy_does_what_the_owners_command_does(tmp_path: Path) -> None:
    learner = Learner()
    database, commands = await real(tmp_path, learner)
    world = world_of("http://127.0.0.1:9", exchange_routes=True)
    door = await opened(world, commands)
    try:
        await commands.consent("ada", "train", "grant")
        assert learner.told == []
        status, told = await ask(world, "POST", {"purpose": "log", "action": "revoke"}, X_Gaia_User="ada")
        assert (status, told["granted"], learner.told) == (200, [], ["ada"])
        assert [(one["action"], one["source"]) for one in told["history"]] == [("grant", "command"), ("revoke", "http")]
        await ask(world, "POST", {**GRANT, "conversation": "c1", "expires_in_s": 60}, X_Gaia_User="ada")
        status, told = await ask(world, "GET", path=f"{CONSENT}?conversation=c1", X_Gaia_User="ada")
        assert (status, told["granted"]) == (200, ["log"])
        assert told == await commands.consents("ada", "c1")
        assert (told["total"], told["until"].keys()) == (3, {"log"})
        assert told["until"]["log"] == pytest.approx(time.time() + 60, abs=5)
        status, least = await ask(world, "GET", path=f"{CONSENT}?limit=1", X_Gaia_User="ada")
        assert (least["history"], least["total"]) == (told["history"][-1:], 3)
        assert (await ask(world, "GET", X_Gaia_User="ada"))[1]["granted"] == []
    finally:
        await door.cleanup()
        await database.close()
