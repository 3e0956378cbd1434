"""Threads that each compute columns of a row of their own give what one gives, whatever becomes of them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.learner.packing import Part, TokenExample, plan_pairs, plan_rows, shares_of
from gaiad.learner.protocol import Job, Message, Progress
from tests.fakes.tiny_base import adapted, make_tiny_base
from tests.integration.test_train_run import example, write

torch = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

from torch import Tensor  # noqa: E402

from gaiad.learner import attention, dropout, fused, losses, ranks, train, usage  # noqa: E402
from gaiad.learner import base as bases  # noqa: E402
from gaiad.learner.scripted import scripted  # noqa: E402

LORA = LoraSpec(8, 16, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
SPEC = TrainingSpec(400, 4, 4, 5e-4, 1, 0.0, 1.0, "bf16", 2, 3, 7)
PARTS = st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("ranks"))


@pytest.fixture
def model(folder: Path) -> Any:
    return adapted(folder, LORA)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def examples(rejected: tuple[int, ...] = ()) -> list[TokenExample]:
    prefix = tuple(range(90))
    return [
        TokenExample(prefix + tuple(range(100 + place, 130 + place)), (140, 141 + place), 0.5 + place, rejected)
        for place in range(3)
    ] + [TokenExample(tuple(range(40, 80)), (1, 2, 3), 1.0, rejected)]


def as_parts(drawn: list[tuple[int, bool]]) -> list[Part]:
    """Prefixes, and rests behind the last of these."""
    found: list[Part] = []
    prefix: int | None = None
    for length, begins in drawn:
        if begins or prefix is None:
            prefix = len(found)
            found.append(Part(length))
        else:
            found.append(Part(length, prefix))
    return found


def seen_by(stretches: Any, columns: int, firsts: list[int], own: int) -> Any:
    """Which columns of the row each of a share's sees, by its stretches."""
    found = torch.zeros(columns, firsts[-1], dtype=torch.bool)
    for one in stretches:
        places = [
            firsts[rank] + at
            for rank, its in zip(one.ranks, one.seen, strict=True)
            for at in range(its.start, its.stop)
        ]
        for turn, column in enumerate(range(one.columns.start, one.columns.stop)):
            found[column, places[: one.width - one.length + turn + 1]] = True
        assert places[-1] == firsts[own] + one.columns.stop - 1
    return found


@settings(deadline=None)
@given(PARTS, st.integers(1, 3))
def test_shares_are_all_columns_once_and_see_what_the_row_lets_them_see(
    drawn: list[tuple[int, bool]], count: int
) -> None:
    parts = as_parts(drawn)
    length = sum(part.length for part in parts)
    (whole,) = shares_of(parts, 1)
    expected = seen_by(whole.stretches, length, [0, length], 0)
    shares = shares_of(parts, count)
    assert len(shares) <= count
    assert [share.rank for share in shares] == list(range(len(shares)))
    assert [shares[0].first, *(share.stop for share in shares)] == [0, *(share.first for share in shares[1:]), length]
    firsts = [*(share.first for share in shares), length]
    for share in shares:
        columns = share.stop - share.first
        assert columns >= min(length, 8)
        assert torch.equal(seen_by(share.stretches, columns, firsts, share.rank), expected[share.first : share.stop])


def test_shares_cost_about_the_same() -> None:
    first, second = shares_of([Part(600), *(Part(100, 0) for _ in range(4))], 2)
    assert first.stop > 500
    assert second.stop == 1000


def gradients(model: Any, laid_out: list[Any], spec: TrainingSpec = SPEC) -> tuple[float, dict[str, Any]]:
    model.zero_grad(set_to_none=True)
    loss = train.gradients_of(model, laid_out, spec)
    return loss, {name: weight.grad.clone() for name, weight in bases.trained_weights(model).items()}


def alike(found: dict[str, Any], expected: dict[str, Any]) -> float:
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / largest


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("room", [200, 400])
def test_ranks_give_loss_and_gradients_of_separate_sequences_to_1e_5(model: Any, room: int, count: int) -> None:
    alone = [losses.batches([one], "padded", "cpu", 200)[0] for one in examples()]
    expected = gradients(model, alone)
    laid_out = losses.batches(examples(), "prefix_shared", "cpu", 130, room, ranks=count)
    assert any(len(batch.shares) == count for batch in laid_out)
    found = gradients(model, laid_out)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert alike(found[1], expected[1]) <= 1e-5
    assert losses.validate(model, laid_out) == pytest.approx(losses.validate(model, alone), rel=1e-5)


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_pairs_in_ranks_are_preferred_as_in_one(model: Any, kind: str) -> None:
    spec = dataclasses.replace(SPEC, preference=kind)
    pairs = examples(rejected=(7, 8, 9))
    expected, divided = (losses.batches(pairs, "prefix_shared", "cpu", 200, 400, ranks=count) for count in (1, 2))
    assert any(batch.shares for batch in divided)
    (loss, wanted), (found, its) = gradients(model, expected, spec), gradients(model, divided, spec)
    assert found == pytest.approx(loss, rel=1e-5)
    assert alike(its, wanted) <= 1e-5


def test_what_ranks_drop_follows_from_the_seed_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(folder, dataclasses.replace(LORA, dropout=0.2))
    laid_out = losses.batches(examples(), "prefix_shared", "cpu", 130, 400, ranks=2)

    def learnt(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        return gradients(model.train(), laid_out)[1]

    first = learnt(1)
    state = torch.get_rng_state()
    real = ranks.Meeting.handed_on

    def late(self: Any, rank: int, own: Any) -> Any:
        time.sleep(0.002 * rank)
        return real(self, rank, own)

    monkeypatch.setattr(ranks.Meeting, "handed_on", late)
    again = learnt(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    other = learnt(2)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_ranks_drop_apart_from_each_other_and_from_torch() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with dropout.drawing(5):
        first = dropout.dropped(10_000, 0.1)
    with dropout.drawing(6):
        second = dropout.dropped(10_000, 0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    both = threading.Barrier(2)

    def drawn(seed: int) -> Any:
        with dropout.drawing(seed):
            both.wait()
            return [dropout.dropped(5_000, 0.1) for _ in range(20)]

    with ThreadPoolExecutor(2) as threads:
        beside = list(threads.map(drawn, (5, 6)))
    for seed, found in zip((5, 6), beside, strict=True):
        with dropout.drawing(seed):
            assert all(torch.equal(dropout.dropped(5_000, 0.1), one) for one in found)


def test_validation_draws_nothing(model: Any) -> None:
    laid_out = losses.batches(examples(), "prefix_shared", "cpu", 130, 400, ranks=2)
    state = torch.get_rng_state()
    losses.validate(model, laid_out)
    assert torch.equal(torch.get_rng_state(), state)


class Spoilt(Exception):
    """What a rank fails with here."""


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("module", "place"),
    [
        (attention, "_weighed"),
        (attention, "_weighed_back"),
        (fused, "_added"),
        (fused, "_normal_back"),
    ],
)
def test_a_rank_that_fails_fails_the_step_and_nobody_waits_for_it(
    model: Any, monkeypatch: pytest.MonkeyPatch, rank: int, module: Any, place: str
) -> None:
    laid_out = losses.batches(examples(), "prefix_shared", "cpu", 130, 400, ranks=2)
    expected = gradients(model, laid_out)
    real = getattr(module, place)
    name = "MainThread" if rank == 0 else "rank"

    def failing(*arguments: Any) -> Any:
        if threading.current_thread().name.startswith(name):
            raise Spoilt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, place, failing)
        with pytest.raises(Spoilt):
            gradients(model, laid_out)
    assert torch.get_num_threads() == 2
    again = gradients(model, laid_out)
    assert alike(again[1], expected[1]) == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_holds_nothing_once_it_is_dealt_with(rank: int) -> None:
    meeting = ranks.Meeting(2)
    held: list[weakref.ref[Any]] = []

    def work(own: int) -> None:
        large = torch.ones(4)
        held.append(weakref.ref(large))
        if own == rank:
            raise Spoilt
        meeting.handed_on(own, large)
        meeting.handed_back(own, large)

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Spoilt):
            ranks.each([lambda: work(0), lambda: work(1)], meeting)
        assert held
        assert [one() for one in held] == [None] * len(held)
    finally:
        gc.enable()


@scripted
def _starved(wanted: Tensor) -> Tensor:
    if wanted.numel() > 2:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if wanted.numel() > 1:
        return wanted.select(0, 10)
    return wanted


def test_memory_that_runs_out_between_operations_is_told_as_such() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        _starved(torch.ones(3))
    with pytest.raises(RuntimeError, match="out of range") as caught:
        _starved(torch.ones(2))
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    assert torch.equal(_starved(torch.ones(1)), torch.ones(1))


def test_memory_that_runs_out_in_a_rank_halves_the_rows_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = attention._weighed, iter(range(1_000_000))

    def hungry(*arguments: Any) -> Any:
        if threading.current_thread().name.startswith("rank") and next(asked) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    monkeypatch.setattr(attention, "_weighed", hungry)
    result = train.train(run_of(tmp_path), threading.Event(), lambda _: None)
    assert any("memory ran out" in note for note in result.notes)
    assert result.steps == 6


def run_of(folder: Path) -> Job:
    """Six steps that drop, of examples that share nothing, in two ranks."""
    said = [example(number) for number in range(16)]
    return Job(
        base_model=str(make_tiny_base(folder / "base", seed=1, hidden=64)),
        train_path=write(folder / "train.jsonl", said),
        validation_path=write(folder / "validation.jsonl", said[:3]),
        output_dir=str(folder / "staging"),
        lora=LoraSpec(4, 8, 0.3, ("q_proj", "v_proj", "down_proj")),
        training=TrainingSpec(400, 6, 8, 5e-3, 2, 0.01, 1.0, "bf16", 3, 3, 7),
        threads=2,
        device="cpu",
        checkpoint_dir=str(folder / "kept"),
        checkpoint_every_s=0.001,
    )


def test_a_run_in_ranks_freezes_that_and_says_the_same_bytes_after_each_break(tmp_path: Path) -> None:
    job = run_of(tmp_path)
    whole = train.train(job, threading.Event(), lambda _: None)
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in Path(job.checkpoint_dir).rglob("*.json")]
    assert {one["account"]["configuration"]["ranks"] for one in kept if "account" in one} == {2}
    again = dataclasses.replace(job, checkpoint_dir=str(tmp_path / "other"))
    for step in (1, 4):

        def hear(message: Message, at: int = step) -> None:
            if isinstance(message, Progress) and message.step == at:
                raise Spoilt

        with pytest.raises(Spoilt):
            train.train(again, threading.Event(), hear)
    assert train.train(again, threading.Event(), lambda _: None).weights_sha256 == whole.weights_sha256


def test_each_rank_computes_with_its_share_of_the_threads() -> None:
    torch.set_num_threads(6)
    meeting = ranks.Meeting(2)

    def work(rank: int) -> Callable[[], tuple[int, list[int], bool]]:
        return lambda: (torch.get_num_threads(), meeting.handed_back(rank, rank), torch.is_grad_enabled())

    with torch.no_grad():
        found = ranks.each([work(0), work(1)], meeting)
    assert found == [(3, [0, 1], False), (3, [1], False)]
    assert ranks.each([work(0), work(1)], meeting) == [(3, [0, 1], True), (3, [1], True)]
    assert torch.get_num_threads() == 6


def test_ranks_get_what_was_handed_over_in_their_turn_and_no_other() -> None:
    meeting = ranks.Meeting(3)

    def work(rank: int) -> list[list[tuple[int, int]]]:
        found = []
        for turn in range(200):
            if (turn + rank) % 7 == 0:
                time.sleep(0.0005)
            found.append(meeting.handed_on(rank, (rank, turn)))
        for turn in range(200):
            if (turn + rank) % 5 == 0:
                time.sleep(0.0005)
            found.append(meeting.handed_back(rank, (rank, -turn)))
        return found

    for own, found in enumerate(ranks.each([lambda rank=rank: work(rank) for rank in range(3)], meeting)):  # type: ignore[misc]
        assert found[:200] == [[(rank, turn) for rank in range(own + 1)] for turn in range(200)]
        assert found[200:] == [[(rank, -turn) for rank in range(own, 3)] for turn in range(200)]


def test_short_rows_are_not_divided() -> None:
    short = [TokenExample((1, 2, 3), (4,))]
    (batch,) = losses.batches(short, "prefix_shared", "cpu", 100, ranks=2)
    assert batch.shares == ()


def test_shares_hold_the_rows_targets_in_order(model: Any) -> None:
    pairs = examples(rejected=(7, 8))
    rows = [*((row, ()) for row in plan_rows(examples(), max_row_tokens=400)), *plan_pairs(pairs, max_row_tokens=400)]
    for row, inside in rows:
        batch = losses.row_of(row, "cpu", inside, ranks=2)
        for name in ("input_ids", "position_ids"):
            whole = torch.cat([getattr(share, name) for share in batch.shares or (batch,)], dim=1)
            assert torch.equal(whole, getattr(batch, name))
        for name in ("targets", "weights"):
            assert torch.equal(
                torch.cat([getattr(share, name) for share in batch.shares or (batch,)]), getattr(batch, name)
            )
        pairs_seen = sum(share.parts.pairs for share in batch.shares or (batch,) if share.parts is not None)
        assert batch.parts is not None
        assert pairs_seen == batch.parts.pairs
        with torch.no_grad():
            alone = losses.token_losses(model, dataclasses.replace(batch, shares=()))
        assert torch.allclose(losses.token_losses(model, batch), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "layout", "threads", "checkpointing", "expected"),
    [
        ("cpu", "prefix_shared", 2, False, 2),
        ("cpu", "prefix_shared", 16, False, 2),
        ("cpu", "prefix_shared", 1, False, 1),
        ("cpu", "prefix_shared", 2, True, 1),
        ("cpu", "padded", 2, False, 1),
        ("cuda", "prefix_shared", 2, False, 1),
    ],
)
def test_a_row_is_divided_where_that_gains(
    folder: Path, device: str, layout: Any, threads: int, checkpointing: bool, expected: int
) -> None:
    torch.set_num_threads(threads)
    assert usage.ranks_for(str(folder), device, layout, checkpointing=checkpointing) == expected


@pytest.mark.parametrize(("kind", "expected"), [("dynamic", 1), ("linear", 2)])
def test_a_base_whose_frequencies_change_with_the_row_is_not_divided(tmp_path: Path, kind: str, expected: int) -> None:
    made = make_tiny_base(tmp_path)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"] = {"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert usage.ranks_for(str(made), "cpu", "prefix_shared", checkpointing=False) == expected
