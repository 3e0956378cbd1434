"""What a run takes, which way of running it is chosen, and what is said where none fits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.curriculum import ALL_LINEAR, Json, LoraSpec
from gaiad.errors import Refuse
from gaiad.learner import memory
from gaiad.learner.base_shape import BaseShape, base_shape
from gaiad.learner.lying import Rows, choices, rows_of
from gaiad.learner.memory import Machine, Plan, Way
from gaiad.learner.packing import TokenExample

GiB = 1 << 30
QUANTISATIONS: tuple[memory.Quantisation, ...] = ("nf4", "bf16")
NANBEIGE = BaseShape(32, 2560, 20, 4, 128, 10496, 166144)
SMALL = BaseShape(30, 576, 9, 3, 64, 1536, 49152, tied=True)
LORA = LoraSpec(16, 32, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj"))


def rows(tokens: int, *, targets: int = 200, total: int | None = None, least: int = 512) -> Rows:
    whole = total or 16 * tokens
    passes = -(-whole // tokens)
    return Rows(tokens, least, tokens, tokens**2, targets, whole, passes * tokens**2, passes * targets, passes)


def several(least: int = 512) -> list[Rows]:
    return [rows(room, targets=room // 8, total=1 << 16, least=least) for room in memory.ROOMS if room >= least]


def chosen(shape: BaseShape, wanted: str, machine: Machine, least: int = 512) -> Plan:
    plan = memory.choose(shape, LORA, wanted, several(least), machine)
    assert isinstance(plan, Plan), plan
    return plan


# What was derived for the 3-4B base, each to a quarter: (quantisation, checkpointing, tokens of a row, GiB).
DERIVED = [("nf4", True, 4096, 5.2), ("nf4", False, 2048, 11.0), ("bf16", True, 4096, 9.3), ("bf16", False, 1024, 11.5)]


@pytest.mark.parametrize(("quantisation", "checkpointing", "tokens", "expected"), DERIVED)
def test_the_estimate_of_a_3b_base_is_what_was_derived_for_it(
    quantisation: memory.Quantisation, checkpointing: bool, tokens: int, expected: float
) -> None:
    found = memory.estimate(NANBEIGE, LORA, Way(quantisation, checkpointing, rows(tokens)), "cuda")
    assert found.peak_bytes / GiB == pytest.approx(expected, rel=0.25)


def test_the_3b_base_has_the_weights_that_its_maker_names() -> None:
    assert NANBEIGE.weights == pytest.approx(3.93e9, rel=0.005)
    found = memory.estimate(NANBEIGE, LORA, Way("bf16", False, rows(1024)), "cuda")
    assert found.weights == 2 * NANBEIGE.weights


def test_four_bits_keep_embedding_and_head_in_bf16() -> None:
    found = memory.estimate(NANBEIGE, LORA, Way("nf4", False, rows(1024)), "cuda")
    tables = 2 * 2 * NANBEIGE.vocabulary * NANBEIGE.hidden
    assert tables < found.weights < tables + 0.53 * NANBEIGE.projection_weights
    tied = dataclasses.replace(NANBEIGE, tied=True)
    assert memory.estimate(tied, LORA, Way("nf4", False, rows(1024)), "cuda").weights < found.weights - tables // 2.1


def test_an_adapter_has_the_size_that_peft_gives_it() -> None:
    assert SMALL.lora_weights(LORA) == 1_843_200
    assert NANBEIGE.lora_weights(LORA) == pytest.approx(8.4e6, rel=0.01)
    everywhere = dataclasses.replace(LORA, target_modules=ALL_LINEAR)
    assert NANBEIGE.lora_weights(everywhere) > 3 * NANBEIGE.lora_weights(LORA)


@given(
    tokens=st.integers(64, 8192),
    more=st.integers(1, 4096),
    targets=st.integers(1, 500),
    kind=st.sampled_from(["cpu", "cuda"]),
    checkpointing=st.booleans(),
    quantisation=st.sampled_from(["nf4", "bf16"]),
)
def test_more_of_anything_never_takes_less_memory(
    tokens: int, more: int, targets: int, kind: memory.Kind, checkpointing: bool, quantisation: memory.Quantisation
) -> None:
    def peak(row: Rows, lora: LoraSpec = LORA, shape: BaseShape = SMALL) -> int:
        return memory.estimate(shape, lora, Way(quantisation, checkpointing, row), kind).peak_bytes

    base = peak(rows(tokens, targets=targets))
    assert peak(rows(tokens + more, targets=targets)) > base
    assert peak(rows(tokens, targets=targets + more)) >= base
    assert peak(rows(tokens, targets=targets), dataclasses.replace(LORA, target_modules=ALL_LINEAR)) > base
    assert peak(rows(tokens, targets=targets), dataclasses.replace(LORA, dropout=0.1)) >= base
    assert peak(rows(tokens, targets=targets), shape=dataclasses.replace(SMALL, layers=31)) > base


def test_checkpointing_and_four_bits_save_memory() -> None:
    peaks = {
        (quantisation, checkpointing): memory.estimate(
            NANBEIGE, LORA, Way(quantisation, checkpointing, rows(2048)), "cuda"
        ).peak_bytes
        for quantisation, checkpointing in itertools.product(QUANTISATIONS, (True, False))
    }
    assert peaks["nf4", True] < peaks["nf4", False] < peaks["bf16", False]
    assert peaks["nf4", True] < peaks["bf16", True] < peaks["bf16", False]


def test_with_plenty_of_memory_the_base_stays_in_bf16_without_checkpointing() -> None:
    plan = chosen(NANBEIGE, "auto", Machine("cuda", 140 * GiB))
    assert (plan.way.quantisation, plan.way.checkpointing, plan.faster) == ("bf16", False, None)


def test_a_quantisation_that_the_spec_fixes_is_kept_whatever_fits() -> None:
    assert chosen(SMALL, "nf4", Machine("cpu", 64 * GiB)).way.quantisation == "nf4"
    assert chosen(NANBEIGE, "bf16", Machine("cuda", 20 * GiB)).way.quantisation == "bf16"


@pytest.mark.parametrize("free_gib", [5, 6, 8, 10, 12, 15.5, 20, 24, 40])
def test_what_is_chosen_fits_with_its_margin_and_is_faster_than_all_that_fits(free_gib: float) -> None:
    machine = Machine("cuda", round(free_gib * GiB))
    plan = chosen(NANBEIGE, "auto", machine)
    assert plan.estimate.needed_bytes <= machine.budget_bytes
    mine = memory.cost(NANBEIGE, plan.way, "cuda")
    for quantisation, checkpointing, row in itertools.product(QUANTISATIONS, (True, False), several()):
        way = Way(quantisation, checkpointing, row)
        if memory.estimate(NANBEIGE, LORA, way, "cuda").needed_bytes <= machine.budget_bytes:
            its = memory.cost(NANBEIGE, way, "cuda")
            assert mine <= its * memory.ALIKE
            if its <= mine:
                assert plan.estimate.peak_bytes <= memory.estimate(NANBEIGE, LORA, way, "cuda").peak_bytes


def test_a_cap_counts_where_it_is_less_than_what_is_free() -> None:
    assert Machine("cuda", 140 * GiB, 15 * GiB).budget_bytes == 15 * GiB
    assert Machine("cuda", 10 * GiB, 15 * GiB).budget_bytes == 10 * GiB
    plan = chosen(NANBEIGE, "auto", Machine("cuda", 140 * GiB, 8 * GiB))
    assert plan.estimate.needed_bytes <= 8 * GiB
    assert plan.faster is not None
    assert memory.share_of_device(plan, 140 * GiB) == pytest.approx(8 / 140)
    assert memory.share_of_device(plan, 4 * GiB) == 1.0


def test_less_memory_never_gives_a_faster_way() -> None:
    sizes = [GiB * half / 2 for half in range(8, 100)]
    costs = []
    for size in sizes:
        plan = memory.choose(NANBEIGE, LORA, "auto", several(), Machine("cuda", round(size)))
        costs.append(memory.cost(NANBEIGE, plan.way, "cuda") if isinstance(plan, Plan) else float("inf"))
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) > 4


def refused(wanted: str, free: float, least: int = 512) -> Refuse:
    plan = memory.choose(NANBEIGE, LORA, wanted, several(least), Machine("cuda", round(free * GiB)))
    assert isinstance(plan, Refuse), plan
    return plan


def test_a_refusal_says_what_would_fit_and_that_does_fit() -> None:
    refusal = refused("bf16", 6)
    assert "set training.quantisation = nf4" in refusal.hint
    assert chosen(NANBEIGE, "nf4", Machine("cuda", 6 * GiB)).way.quantisation == "nf4"
    assert "6.00 GiB" in refusal.reason


@pytest.mark.parametrize(("wanted", "free"), [("nf4", 4.5), ("bf16", 9.0), ("auto", 4.5)])
def test_a_refusal_of_long_examples_names_a_length_that_fits(wanted: str, free: float) -> None:
    refusal = refused(wanted, free, least=8192)
    length = int(refusal.hint.split("max_sequence_tokens = ")[1].split()[0])
    assert 64 <= length < 8192
    shorter = [rows(length, targets=min(1024, length), least=length)]
    assert isinstance(memory.choose(NANBEIGE, LORA, wanted, shorter, Machine("cuda", round(free * GiB))), Plan)


def test_a_base_whose_weights_alone_are_too_many_is_refused_with_nothing_but_a_smaller_one() -> None:
    refusal = refused("auto", 2)
    assert "use a smaller base" in refusal.hint
    assert "training.quantisation" not in refusal.hint
    assert "max_sequence_tokens" not in refusal.hint


def test_what_is_missing_is_enough_once_it_is_there() -> None:
    refusal = refused("bf16", 6)
    assert "GiB more" in refusal.hint
    more = float(refusal.hint.split("free ")[1].split()[0]) + 0.01
    assert isinstance(memory.choose(NANBEIGE, LORA, "bf16", several(), Machine("cuda", round((6 + more) * GiB))), Plan)


def test_out_of_memory_halves_the_rows_once() -> None:
    plan = chosen(NANBEIGE, "auto", Machine("cuda", 140 * GiB))
    halved = memory.after_out_of_memory(plan)
    assert isinstance(halved, Plan)
    assert halved.row_tokens == max(plan.row_tokens // 2, 512)
    assert halved.halved
    assert "as many examples a step" in memory.said(halved)
    again = memory.after_out_of_memory(halved)
    assert isinstance(again, Refuse)
    assert again.hint


def test_rows_are_never_halved_below_the_longest_example() -> None:
    plan = dataclasses.replace(
        chosen(NANBEIGE, "auto", Machine("cuda", 140 * GiB), least=1500), row_tokens=2048, least_tokens=1500
    )
    plan = dataclasses.replace(plan, way=dataclasses.replace(plan.way, rows=rows(2048, least=1500)))
    halved = memory.after_out_of_memory(plan)
    assert isinstance(halved, Plan)
    assert halved.row_tokens == 1500
    alone = dataclasses.replace(plan.way.rows, longest=1500)
    stuck = memory.after_out_of_memory(dataclasses.replace(plan, way=dataclasses.replace(plan.way, rows=alone)))
    assert isinstance(stuck, Refuse)
    assert "1,500" in stuck.reason


def test_the_sentence_names_the_way_the_items_and_what_was_passed_over() -> None:
    plan = chosen(NANBEIGE, "auto", Machine("cuda", 140 * GiB, 11 * GiB))
    sentence = memory.said(plan)
    for item in ("weights", "adapter", "activations", "masks", "passing", "slack"):
        assert f"{item} " in sentence
    assert f"rows of {plan.row_tokens:,} tokens" in sentence
    assert "11.0 GiB" in sentence
    assert "would be faster and needs" in sentence


# --- The base's shape -------------------------------------------------------------------------------------------------

CONFIG: dict[str, Json] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 2560,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 10496,
    "vocab_size": 166144,
    "tie_word_embeddings": False,
}


def test_a_shape_is_read_from_the_config() -> None:
    assert base_shape(CONFIG) == NANBEIGE
    plain = {key: value for key, value in CONFIG.items() if key not in ("num_key_value_heads", "head_dim")}
    assert base_shape(plain) == dataclasses.replace(NANBEIGE, kv_heads=20)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gemma3"}, "'gemma3'"),
        ({"num_local_experts": 8}, "counted"),
        ({"hidden_size": "2560"}, "hidden"),
        ({"vocab_size": 0}, "vocabulary"),
    ],
)
def test_what_cannot_be_counted_is_refused(change: dict[str, Json], named: str) -> None:
    refusal = base_shape({**CONFIG, **change})
    assert isinstance(refusal, Refuse)
    assert named in refusal.reason
    assert refusal.hint


# --- How examples lie -------------------------------------------------------------------------------------------------


def example(prefix: int, own: int, answer: int, seed: int) -> TokenExample:
    return TokenExample((*range(prefix), *range(10_000 * seed, 10_000 * seed + own)), tuple(range(answer)))


STEPS: Sequence[Sequence[TokenExample]] = [
    [example(300, 40, 10 + seed, 4 * step + seed) for seed in range(4)] for step in range(3)
]


def test_rows_count_what_will_go_through_the_network() -> None:
    found = rows_of(STEPS, 4096, shared=True)
    tokens = 300 + 4 * 40 + 10 + 11 + 12 + 13
    assert (found.longest, found.cells, found.targets, found.passes) == (tokens, tokens**2, 46, 3)
    assert (found.total_tokens, found.total_targets, found.least) == (3 * tokens, 138, 353)


def test_padded_passes_count_their_padding() -> None:
    found = rows_of(STEPS, 4096, shared=False)
    assert (found.longest, found.cells, found.passes) == (4 * 353, 4 * 353**2, 3)


def test_no_row_has_less_room_than_the_longest_example() -> None:
    assert rows_of(STEPS, 64, shared=True).room == 353
    assert rows_of(STEPS, 64, shared=True).passes == 12


def test_only_sizes_that_make_a_difference_are_choices() -> None:
    assert [one.room for one in choices(STEPS, (360, 480, 512, 1024, 2048), shared=True)] == [360, 480, 512]
    assert [one.room for one in choices(STEPS, memory.ROOMS, shared=True)] == [512]
    assert [one.room for one in choices(STEPS, (32, 64), shared=True)] == [353]


def test_pairs_lie_with_both_their_answers() -> None:
    pair = dataclasses.replace(example(100, 0, 20, 1), rejected=tuple(range(30)))
    found = rows_of([[pair]], 512, shared=True)
    assert (found.longest, found.targets) == (99 + 21 + 31, 50)
    assert found.least >= found.longest
    assert rows_of([[pair]], 512, shared=False).longest == 2 * 130
