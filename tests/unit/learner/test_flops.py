"""What is counted as arithmetic, and what a device is said to be able to."""

from __future__ import annotations

import dataclasses

import pytest

from gaiad.curriculum import LoraSpec
from gaiad.learner.base_shape import BaseShape
from gaiad.learner.flops import PEAKS, Work, flops_per_token, forward_flops, peak_of, share_of_peak, training_flops

NANBEIGE = BaseShape(32, 2560, 20, 4, 128, 10496, 166144)
LORA = LoraSpec(16, 32, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj"))
NO_LORA = dataclasses.replace(LORA, target_modules=())


def test_a_frozen_base_costs_four_flops_a_weight_and_token() -> None:
    assert training_flops(NANBEIGE, NO_LORA, Work(1, 0, 0)) == 4 * NANBEIGE.projection_weights


def test_a_trained_weight_costs_six() -> None:
    with_lora, without = (training_flops(NANBEIGE, lora, Work(7, 0, 0)) for lora in (LORA, NO_LORA))
    assert with_lora - without == 7 * 6 * NANBEIGE.lora_weights(LORA)


def test_attention_costs_twelve_flops_a_pair_and_the_head_four_a_weight_and_target() -> None:
    assert training_flops(NANBEIGE, LORA, Work(0, 1, 0)) == 12 * 32 * 2560
    assert training_flops(NANBEIGE, LORA, Work(0, 0, 1)) == 4 * 2560 * 166144
    assert forward_flops(NANBEIGE, LORA, Work(0, 1, 1)) == 4 * 32 * 2560 + 2 * 2560 * 166144


def test_a_million_tokens_of_a_3b_base_cost_what_was_derived_for_them() -> None:
    # 1.4e16 for a thousand examples of 1,024 tokens, each seeing half of its own on average.
    million = flops_per_token(NANBEIGE, LORA, seen=512, target_share=0.1) * 1024 * 1000
    assert million == pytest.approx(1.4e16, rel=0.1)


def test_work_adds_up() -> None:
    first, second = Work(10, 50, 3), Work(4, 9, 1)
    whole = training_flops(NANBEIGE, LORA, first + second)
    assert whole == training_flops(NANBEIGE, LORA, first) + training_flops(NANBEIGE, LORA, second)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 5070 Ti", 87.9e12),
        ("NVIDIA GeForce RTX 5070", 61.7e12),
    ],
)
def test_a_known_device_is_known_by_its_name(name: str, peak: float) -> None:
    assert peak_of(name) == peak


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 5090 Laptop GPU",
        "NVIDIA GeForce RTX 4080 SUPER",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "Tesla T4",
        "NVIDIA L40",
        "AMD EPYC",
        "",
    ],
)
def test_another_device_is_not_taken_for_a_known_one(name: str) -> None:
    assert peak_of(name) is None


def test_every_name_in_the_table_finds_itself() -> None:
    assert [name for name, peak in PEAKS.items() if peak_of(f"NVIDIA {name.upper()}") != peak] == []


def test_a_share_is_of_what_the_device_could_have_done_meanwhile() -> None:
    assert share_of_peak(5e12, 10.0, 1e12) == 0.5
    assert share_of_peak(5e12, 10.0, None) is None
    assert share_of_peak(5e12, 0.0, 1e12) is None
