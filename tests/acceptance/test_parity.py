"""Parity on a real vLLM: an adapter passes under its name, other weights under that name are found out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from examples.demo_world import World
from gaiad.adapter import AdapterName, VersionName
from gaiad.config import parse_config
from gaiad.gpu.engine import Engine
from gaiad.learner import cycle
from gaiad.learner.artifacts import Published, weights_digest
from gaiad.learner.attempt import Attempt, Order
from gaiad.learner.comparison import Comparison
from gaiad.learner.cycle import Kind
from gaiad.learner.parity import Parity
from gaiad.learner.protocol import Reference
from gaiad.learner.runner import MEASURER
from gaiad.learner.sources import catalogue

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

ADAPTER = AdapterName("json-architect")


def write_adapter(folder: Path, base: Path, *, seed: int, strength: float = 1.0) -> Path:
    """An adapter of random weights, strong enough to be heard; the same seed gives the same direction."""
    import torch
    from safetensors.torch import save_file

    shape = json.loads((base / "config.json").read_text())
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        first = torch.randn(8, hidden, generator=draw) * 0.05
        second = torch.randn(hidden, 8, generator=draw) * 0.15 * strength
        tensors |= {f"{name}.lora_A.weight": first.bfloat16(), f"{name}.lora_B.weight": second.bfloat16()}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    return folder


@dataclass(frozen=True)
class Judge:
    """Compares what the engine has under a name with an adapter's files."""

    engine: Engine
    comparison: Comparison
    folder: Path
    measured: dict[Path, Reference] = field(default_factory=dict)

    async def verdict(self, number: int, *, trained: Path, served: Path) -> Parity:
        """Load `served` under a new name, and judge it as the version that `trained` is."""
        version = VersionName(f"{ADAPTER}@v{number}-00000000")
        await self.engine.load(version, served)
        try:
            own = catalogue.shipped_curricula() / ADAPTER
            curriculum = catalogue.load_curriculum(own, "demo")
            dataset = catalogue.gather(curriculum, own, [])
            attempt = Attempt(
                *("parity", Order(ADAPTER, Kind.IMPORT, "demo"), 0.0, self.folder, cycle.begin(Kind.IMPORT)[0]),
                curriculum=curriculum,
                dataset=dataset,
                dataset_folder=catalogue.freeze(dataset, self.folder / "datasets"),
                published=Published(version, trained, weights_digest(trained)),
                reference=self.measured.get(trained),
            )
            answer: Any = await self.comparison.compare(attempt)
        finally:
            await self.engine.unload(version)
        assert attempt.parity is not None, answer
        assert attempt.reference is not None
        self.measured[trained] = attempt.reference
        assert (answer.passed, answer.reason) == (attempt.parity.passed, attempt.parity.reason)
        print(f"\n{trained.name} against {served.name} served: {attempt.parity.reason}")
        return attempt.parity


async def test_an_adapter_passes_under_its_name_and_other_weights_under_it_are_found_out(
    home: World, small_model: Path, tmp_path: Path
) -> None:
    settings = f"""
        state_dir = "state"
        control_socket = "control.sock"
        [engine]
        mode = "external"
        url = "http://127.0.0.1:{home.engine_port}"
        base_model = "{small_model}"
        device = "cpu"
    """
    config = parse_config(settings, relative_to=tmp_path)
    own = write_adapter(tmp_path / "own", small_model, seed=1)
    # Not only another direction, but the same one a quarter weaker, as a version before would be.
    weaker = write_adapter(tmp_path / "weaker", small_model, seed=1, strength=0.75)
    other = write_adapter(tmp_path / "other", small_model, seed=2)
    engine = Engine(config, max_lora_rank=16)
    try:
        await engine.facts()
        judge = Judge(
            engine, Comparison(config=config, engine=engine, python=sys.executable, program=MEASURER), tmp_path
        )
        right = await judge.verdict(90, trained=own, served=own)
        assert right.measured
        assert right.passed, right.reason
        assert right.effect_nats is not None
        assert right.effect_nats > 1
        for number, served in enumerate((other, weaker), start=91):
            swapped = await judge.verdict(number, trained=own, served=served)
            assert not swapped.passed, swapped.reason
            assert swapped.reason.startswith("served differs from trained")
    finally:
        await engine.stop()
