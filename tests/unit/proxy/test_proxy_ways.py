"""A way is worked out once, for as long as registry and engine are what they were, and not a moment longer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import msgspec
import pytest

from gaiad.adapter import AdapterName, RegistrySnapshot, VersionName
from gaiad.config import parse_config
from gaiad.keys import Key
from gaiad.proxy.ask import Ask
from gaiad.proxy.ports import EngineKnowledge
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.stages import NamedStage
from gaiad.proxy.ways import Way, Ways

CONFIG = parse_config(
    'state_dir = "s"\n[engine]\nmode = "external"\nurl = "http://127.0.0.1:1"\n[learning]\nenabled = false\n',
    relative_to=Path("/nonexistent"),
)
STAGE, ADAPTER = next(iter(CONFIG.stages.items()))
V1, V2 = VersionName(f"{ADAPTER}@v1-0a1b2c3d"), VersionName(f"{ADAPTER}@v2-0a1b2c3d")


@dataclass(frozen=True)
class Facts:
    version: str = "0.32.0"
    served_name: str = "/models/core"
    max_model_len: int | None = None


@dataclass
class World:
    snapshot: RegistrySnapshot = field(default_factory=RegistrySnapshot)
    facts: Facts | None = field(default_factory=Facts)

    def ways(self) -> Ways:
        return Ways(CONFIG, lambda: self.snapshot, lambda: cast("EngineKnowledge | None", self.facts))


def ask(model: str | None = "auto", stage: str = STAGE, key: Key | None = None) -> Ask:
    return Ask(
        fields={},
        model=model,
        stream=False,
        stage=NamedStage(stage, "header"),
        is_user=True,
        user=None,
        conversation=None,
        consent=None,
        key=key,
    )


def active(version: VersionName) -> RegistrySnapshot:
    adapter = AdapterName(ADAPTER)
    return replace(RegistrySnapshot(), active={adapter: version}, servable=frozenset({version}))


def found(way: Way | Rejection) -> Way:
    assert isinstance(way, Way), way
    return way


def test_the_same_question_has_the_same_answer_without_being_worked_out_again() -> None:
    ways = World(active(V1)).ways()
    assert ways.find(ask()) is ways.find(ask())


def test_it_says_what_the_engine_is_asked_for_and_what_the_client_gets_to_see() -> None:
    way = found(World(active(V1)).ways().find(ask("/models/prime")))
    assert (way.told, way.asked, bytes(way.model)) == (V1, "/models/prime", msgspec.json.encode(V1))
    assert way.lines == (
        f"X-Gaia-Stage: {STAGE}\r\nX-Gaia-Stage-Reason: header\r\nX-Gaia-Adapter: {V1}\r\nX-Gaia-Arm: none\r\n"
    )


def test_another_model_stage_or_reason_is_another_way() -> None:
    ways = World(active(V1)).ways()
    other = NamedStage(STAGE, "rule:x")
    asks = [ask(), ask("base"), ask(stage="base"), msgspec.structs.replace(ask(), stage=other)]
    assert len({id(ways.find(one)) for one in asks}) == len(asks)


def test_a_flip_of_the_alias_holds_for_the_very_next_request() -> None:
    world = World(active(V1))
    ways = world.ways()
    before = found(ways.find(ask()))
    world.snapshot = active(V2)
    assert (before.serve.version, found(ways.find(ask())).serve.version) == (V1, V2)
    world.snapshot = RegistrySnapshot()
    assert found(ways.find(ask())).serve.version is None


def test_an_engine_that_started_anew_under_another_name_is_asked_by_that_name() -> None:
    world = World()
    ways = world.ways()
    before = found(ways.find(ask()))
    world.facts = Facts("0.10.0", "/models/other")
    after = found(ways.find(ask()))
    assert (before.told, before.engine_version) == ("/models/core", "0.32.0")
    assert (after.told, after.engine_version) == ("/models/other", "0.10.0")


def test_a_name_that_means_nothing_is_asked_about_each_time() -> None:
    world = World()
    ways = world.ways()
    assert isinstance(ways.find(ask(V1)), Rejection)
    world.snapshot = active(V1)
    assert found(ways.find(ask(V1))).serve.version == V1


@pytest.mark.parametrize("stages", [frozenset({"base"}), frozenset()])
def test_a_way_that_one_caller_may_go_does_not_open_it_to_another(stages: frozenset[str]) -> None:
    ways = World(active(V1)).ways()
    assert isinstance(ways.find(ask(V1)), Way)
    held = Key(name="k", id="k1", digest="0" * 64, stages=stages)
    assert isinstance(ways.find(ask(V1, key=held)), Rejection)


def test_names_that_clients_think_up_do_not_pile_up() -> None:
    ways = World().ways()
    for number in range(2000):
        ways.find(ask(CONFIG.proxy.base_names[0], stage=f"s{number}"))
    assert len(ways._known) <= 512
