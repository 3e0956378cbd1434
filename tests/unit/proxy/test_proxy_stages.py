"""Who names the stage, and what is said about a name that is none."""

from __future__ import annotations

import pytest

from gaiad.config import DEFAULT_STAGES
from gaiad.proxy.recognition import Recognised
from gaiad.proxy.refusals import Rejection
from gaiad.proxy.stages import NamedStage, StageReason, name_stage


def named(
    header: str | None = None,
    metadata: object = None,
    model: str | None = None,
    recognised: Recognised | None = None,
) -> NamedStage | Rejection:
    return name_stage(
        header=header,
        metadata=metadata,
        model=model,
        stages=DEFAULT_STAGES,
        default_stage="generation",
        recognise=lambda: recognised,
    )


@pytest.mark.parametrize(
    ("header", "metadata", "model", "stage", "reason"),
    [
        (None, None, None, "generation", StageReason.DEFAULT),
        (None, None, "/models/prime", "generation", StageReason.DEFAULT),
        (None, None, "json-architect", "generation", StageReason.DEFAULT),
        ("", {}, None, "generation", StageReason.DEFAULT),
        (None, "not an object", None, "generation", StageReason.DEFAULT),
        (None, {"gaia_stage": None}, None, "generation", StageReason.DEFAULT),
        (None, None, "gaia:intent", "intent", StageReason.MODEL),
        (None, None, "gaia:base", "base", StageReason.MODEL),
        (None, {"gaia_stage": "reflection"}, "gaia:intent", "reflection", StageReason.METADATA),
        (" confidence ", {"gaia_stage": "reflection"}, "gaia:intent", "confidence", StageReason.HEADER),
        ("confidence", {"gaia_stage": "nonsense"}, None, "confidence", StageReason.HEADER),
    ],
)
def test_the_strongest_name_wins(
    header: str | None, metadata: object, model: str | None, stage: str, reason: StageReason
) -> None:
    assert named(header, metadata, model) == NamedStage(stage, reason)


def test_what_is_recognised_stands_between_the_alias_and_the_default() -> None:
    seen = Recognised("reflection", "a_rule", 12.0, ())
    assert named(recognised=seen) == NamedStage("reflection", "rule:a_rule")
    assert named(model="gaia:intent", recognised=seen) == NamedStage("intent", "model")
    assert named(metadata={"gaia_stage": "confidence"}, recognised=seen) == NamedStage("confidence", "metadata")
    assert named(header="base", recognised=seen) == NamedStage("base", "header")


def test_recognition_is_not_asked_where_somebody_names_the_stage() -> None:
    def never() -> Recognised:
        raise AssertionError

    named = name_stage(
        header="intent", metadata=None, model=None, stages=DEFAULT_STAGES, default_stage="base", recognise=never
    )
    assert named == NamedStage("intent", "header")


@pytest.mark.parametrize(
    ("header", "metadata"),
    [("nonsense", None), (None, {"gaia_stage": "nonsense"}), (None, {"gaia_stage": 3}), (None, {"gaia_stage": []})],
)
def test_an_unknown_stage_is_a_bad_request_that_lists_the_stages(header: str | None, metadata: object) -> None:
    refusal = named(header, metadata)
    assert isinstance(refusal, Rejection)
    assert refusal.status == 400
    assert "tool_selection" in refusal.message


@pytest.mark.parametrize("header", [None, "intent"])
def test_an_unknown_stage_alias_does_not_exist_whatever_the_header(header: str | None) -> None:
    refusal = named(header, None, "gaia:nonsense")
    assert isinstance(refusal, Rejection)
    assert refusal.status == 404
    assert "does not exist" in refusal.message
