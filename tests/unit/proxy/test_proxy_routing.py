"""Names against the registry: who serves, and what does not exist."""

from __future__ import annotations

import pytest

from gaiad.adapter import AdapterName, Arm, RegistrySnapshot, VersionName
from gaiad.config import DEFAULT_STAGES
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.routing import Serve, may_come_to_serve, route

ACTIVE = VersionName("json-architect@v2-0a1b2c3d")
FORMER = VersionName("json-architect@v1-11111111")
SNAPSHOT = RegistrySnapshot(
    adapters=frozenset({AdapterName("json-architect"), AdapterName("gaia-voice")}),
    active={AdapterName("json-architect"): ACTIVE},
    previous={AdapterName("json-architect"): FORMER},
    servable=frozenset({ACTIVE, FORMER}),
)


def routed(model: str | None, stage: str = "generation", snapshot: RegistrySnapshot = SNAPSHOT) -> Serve | Rejection:
    return route(
        model=model,
        stage=stage,
        stages=DEFAULT_STAGES,
        base_names=("/models/prime", "/models/core"),
        served_name="smollm2",
        snapshot=snapshot,
    )


@pytest.mark.parametrize("model", [None, "", "auto", "smollm2", "/models/prime", "/models/core", "gaia:tool_selection"])
@pytest.mark.parametrize(
    ("stage", "version"),
    [("tool_selection", ACTIVE), ("intent", ACTIVE), ("generation", None), ("reflection", None), ("base", None)],
)
def test_base_names_leave_the_adapter_to_the_stage(model: str | None, stage: str, version: VersionName | None) -> None:
    assert routed(model, stage) == Serve(version, Arm.NONE)


@pytest.mark.parametrize(("model", "version"), [("json-architect", ACTIVE), (ACTIVE, ACTIVE), (FORMER, FORMER)])
@pytest.mark.parametrize("stage", ["generation", "base", "reflection", "tool_selection"])
def test_an_adapter_named_outright_serves_whatever_the_stage(model: str, version: VersionName, stage: str) -> None:
    assert routed(model, stage) == Serve(version)


@pytest.mark.parametrize(
    "model",
    ["gaia-voice", "epistemic-guard", "gpt-4o", "json-architect@v3-ffffffff", "json-architect@v2", "../etc", "base"],
)
@pytest.mark.parametrize("stage", ["tool_selection", "base"])
def test_a_name_that_cannot_serve_does_not_exist(model: str, stage: str) -> None:
    refusal = routed(model, stage)
    assert isinstance(refusal, Rejection)
    assert refusal.status == 404
    assert f"`{model}` does not exist" in refusal.message


def test_an_alias_never_resolves_to_the_base_once_its_version_is_gone() -> None:
    empty = RegistrySnapshot(adapters=SNAPSHOT.adapters)
    assert isinstance(routed("json-architect", "tool_selection", empty), Rejection)
    assert routed("auto", "tool_selection", empty) == Serve(None)


def test_a_stage_set_to_nothing_is_served_by_the_base() -> None:
    stages = {**DEFAULT_STAGES, "tool_selection": ""}
    served = route(
        model=None, stage="tool_selection", stages=stages, base_names=(), served_name="smollm2", snapshot=SNAPSHOT
    )
    assert served == Serve(None)


UNLOADED = RegistrySnapshot(
    adapters=SNAPSHOT.adapters, active_unloaded=SNAPSHOT.active, servable_unloaded=SNAPSHOT.servable
)


@pytest.mark.parametrize("model", ["json-architect", ACTIVE, FORMER])
def test_a_name_that_only_is_not_loaded_may_come_to_serve_and_is_told_so(model: str) -> None:
    refusal = routed(model, "tool_selection", UNLOADED)
    assert isinstance(refusal, Rejection)
    assert refusal.status == 404
    assert f"`{model}` does not exist" in refusal.message
    assert "does not have it loaded now" in refusal.message
    assert "No version" not in refusal.message
    assert may_come_to_serve(model, UNLOADED)
    assert not may_come_to_serve(model, SNAPSHOT)


@pytest.mark.parametrize("model", [None, "gaia-voice", "gpt-4o", "json-architect@v3-ffffffff"])
def test_a_name_that_means_nothing_never_comes_to_serve(model: str | None) -> None:
    assert not may_come_to_serve(model, UNLOADED)


@pytest.mark.parametrize(
    ("version", "stage", "answers"),
    [
        (ACTIVE, "tool_selection", True),
        (ACTIVE, "generation", False),
        (ACTIVE, "base", False),
        (None, "tool_selection", True),
        (None, "base", True),
    ],
)
def test_only_the_stages_own_adapter_and_the_base_answer_for_it(
    version: VersionName | None, stage: str, answers: bool
) -> None:
    assert Serve(version).answers_for(stage, DEFAULT_STAGES) is answers
