"""What GAIA asks of an engine: confirmed where it holds, said not to exist where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from gaiad.adapter import AdapterName, RegistrySnapshot, VersionName
from gaiad.proxy.gaia import (
    Scene,
    adapter_list,
    adapter_status,
    load_model,
    loading,
    model_info,
    named_adapter,
    status,
    unloading,
)
from gaiad.proxy.refusals import Rejection

ARCHITECT, VOICE, GUARD = (AdapterName(name) for name in ("json-architect", "gaia-voice", "epistemic-guard"))
ACTIVE, FORMER, LOST = (
    VersionName(name) for name in ("json-architect@v2-22222222", "json-architect@v1-11111111", "gaia-voice@v1-33333333")
)
SNAPSHOT = RegistrySnapshot(
    adapters=frozenset({ARCHITECT, VOICE, GUARD}),
    active={ARCHITECT: ACTIVE},
    servable=frozenset({ACTIVE, FORMER}),
    active_unloaded={VOICE: LOST},
    servable_unloaded=frozenset({LOST}),
)
HEALTH = {"status": "ok", "model_loaded": True, "engine": "vllm", "mode": "active", "active_inference": 2}
SCENE = Scene(HEALTH, SNAPSHOT, "base", "0.32.0", 4096)


@pytest.mark.parametrize(
    ("name", "loads", "unloads"),
    [
        (ARCHITECT, True, True),
        (ACTIVE, True, True),
        (FORMER, True, True),
        (VOICE, False, True),
        (LOST, False, True),
        (GUARD, False, True),
        ("gaia_persona_v1", False, False),
        ("json-architect@v9-99999999", False, False),
        ("base", False, False),
        ("../adapters/json-architect", False, False),
    ],
)
def test_what_serves_is_loaded_and_what_is_known_is_unloaded_without_any_change(
    name: str, loads: bool, unloads: bool
) -> None:
    for refusal, confirmed in ((loading(name, SNAPSHOT), loads), (unloading(name, SNAPSHOT), unloads)):
        assert (refusal is None) == confirmed
        assert refusal is None or (refusal.status, "does not exist" in refusal.message) == (404, True)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"lora_name": "a", "lora_path": "/x/b"}, "a"),
        ({"name": "a", "path": "/x/b"}, "a"),
        ({"adapter_path": "/models/lora/a/", "scale": 1.0}, "a"),
        ({"path": "a"}, "a"),
    ],
)
def test_an_adapter_is_named_in_any_of_the_ways_that_callers_have(body: dict[str, Any], name: str) -> None:
    assert named_adapter(body) == name


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": 5}, {"path": "/"}, {"lora_name": None}])
def test_a_request_that_names_none_is_a_400(body: dict[str, Any]) -> None:
    named = named_adapter(body)
    assert isinstance(named, Rejection)
    assert named.status == 400


def test_pages_say_what_stands_and_never_another_engine() -> None:
    for page in (status(SCENE), model_info(SCENE)):
        assert page["engine"] == "vllm"
        assert (page["model"], page["version"], page["model_loaded"]) == ("base", "0.32.0", True)
    assert status(SCENE)["active_inference"] == 2
    assert adapter_list(SCENE)["adapters"] == [
        {"name": "epistemic-guard", "version": None, "loaded": False},
        {"name": "gaia-voice", "version": LOST, "loaded": False},
        {"name": "json-architect", "version": ACTIVE, "loaded": True},
    ]
    assert (adapter_status(SCENE)["active"], adapter_status(SCENE)["loaded"]) == (None, ["json-architect"])


def test_a_model_that_is_loaded_is_not_loaded_again() -> None:
    assert load_model(SCENE)[0] == 409
    waiting = Scene({**HEALTH, "model_loaded": False}, SNAPSHOT)
    assert load_model(waiting) == (200, {"ok": True, "model": "", "message": "gaiad starts it"})
