"""The real parity child on a tiny base, driven as the daemon drives it."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gaiad.errors import TrainingError
from gaiad.learner.artifacts import weights_digest
from gaiad.learner.dataset import Example, Message
from gaiad.learner.protocol import Reference, ReferenceJob
from gaiad.learner.runner import MEASURER, Run
from tests.fakes.tiny_base import CHATML, make_tiny_base

pytest.importorskip("torch")

import torch

from gaiad.learner import parity_child


def example(number: int) -> Example:
    words = " and again" * number
    return Example(
        (Message("user", f"Where is thing {number}{words}?"), Message("assistant", json.dumps({"thing": number}))),
        source="toy",
        group=f"toy/{number}",
        origin=f"toy:{number}",
    )


EXAMPLES = [example(number) for number in range(8)]


def write_adapter(folder: Path, base: Path, *, seed: int) -> Path:
    """A LoRA with random weights on both sides, saved as the trainer saves one."""
    import transformers
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file

    hub: Any = transformers
    torch.manual_seed(seed)
    model = hub.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    lora: Any = get_peft_model(model, config)
    state = get_peft_model_state_dict(lora, save_embedding_layers=False)
    folder.mkdir()
    drawn = {name: torch.randn(tensor.shape).to(torch.bfloat16) * 0.3 for name, tensor in state.items()}
    save_file(drawn, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    shape = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**shape, "target_modules": ["q_proj", "v_proj"]}))
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> ReferenceJob:
    folder = tmp_path_factory.mktemp("parity")
    base = make_tiny_base(folder / "base", seed=1, spread=0.1)
    (folder / "held_out.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in EXAMPLES))
    return ReferenceJob(
        base_model=str(base),
        adapter_dir=str(write_adapter(folder / "adapter", base, seed=1)),
        examples_path=str(folder / "held_out.jsonl"),
        examples=3,
        max_tokens=400,
        threads=1,
        device="cpu",
    )


async def carry_out(job: ReferenceJob, folder: Path) -> Reference:
    run = await Run.start(job, python=sys.executable, log_path=folder / "parity.log", silence_s=100, program=MEASURER)
    async with run:
        return await run.reference()


async def test_a_reference_is_what_the_network_gives_each_token_with_the_adapter_and_without(
    job: ReferenceJob, tmp_path: Path
) -> None:
    import transformers
    from peft import PeftModel

    hub: Any = transformers
    found = await carry_out(job, tmp_path)
    assert found.unable == ""
    assert found.weights_sha256 == weights_digest(Path(job.adapter_dir))
    assert found.peak_memory_bytes > 0
    # Evenly from the shorter half.
    assert [one.key for one in found.measured] == [EXAMPLES[at].key() for at in (0, 1, 2)]
    bare = hub.AutoModelForCausalLM.from_pretrained(job.base_model, dtype=torch.bfloat16).eval()
    expected = {}
    ids = torch.tensor([[*found.measured[0].tokens]])
    with torch.no_grad():
        expected["base"] = bare(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        adapted: Any = PeftModel.from_pretrained(bare, job.adapter_dir).eval()
        expected["adapter"] = adapted(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    assert found.measured[0].base == pytest.approx(expected["base"].tolist(), abs=1e-4)
    assert found.measured[0].adapter == pytest.approx(expected["adapter"].tolist(), abs=1e-4)
    assert found.measured[0].adapter != pytest.approx(found.measured[0].base, abs=0.05)


async def test_a_reference_names_the_prompt_as_the_template_renders_it(job: ReferenceJob, tmp_path: Path) -> None:
    import hashlib

    import transformers

    hub: Any = transformers
    found = await carry_out(dataclasses.replace(job, examples=1), tmp_path)
    tokenizer = hub.AutoTokenizer.from_pretrained(job.base_model)
    tokenizer.chat_template = CHATML
    messages = [{"role": "user", "content": EXAMPLES[0].messages[0].content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    (one,) = found.measured
    assert one.rendered_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert list(one.tokens[: one.answer_from]) == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(one.tokens[one.answer_from :]) == EXAMPLES[0].answer + tokenizer.eos_token
    assert "Where is" not in (tmp_path / "parity.log").read_text()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"max_tokens": 3}, "no held-out example has at most 3 tokens"),
        ({"adapter_dir": "/nonexistent"}, "nonexistent"),
        ({"examples_path": "/nonexistent"}, "cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_an_error_with_the_reason(
    job: ReferenceJob, change: dict[str, Any], why: str
) -> None:
    with pytest.raises((TrainingError, OSError, ValueError), match=why):
        parity_child.measure(dataclasses.replace(job, **change), "cpu", threading.Event(), lambda _: None)


def test_weights_that_give_no_numbers_are_refused(job: ReferenceJob, tmp_path: Path) -> None:
    broken = write_adapter(tmp_path / "broken", Path(job.base_model), seed=2)
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "adapter_model.safetensors")
    save_file(
        {name: tensor.fill_(float("nan")) for name, tensor in tensors.items()}, broken / "adapter_model.safetensors"
    )
    of_broken = dataclasses.replace(job, adapter_dir=str(broken))
    with pytest.raises(TrainingError, match="no numbers"):
        parity_child.measure(of_broken, "cpu", threading.Event(), lambda _: None)


def test_a_measurement_stops_between_two_examples(job: ReferenceJob) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingError, match="preempted"):
        parity_child.measure(job, "cpu", stop, lambda _: None)


@pytest.mark.parametrize(
    ("free", "place"),
    [
        ({"cuda": 11, "cpu": 11}, "cuda"),
        ({"cuda": 10, "cpu": 11}, "cpu"),
        ({"cpu": 11}, "cpu"),
        ({"cuda": 10, "cpu": 10}, None),
        ({"cpu": 0}, None),
    ],
)
def test_the_base_goes_where_it_fits_or_nowhere(free: dict[str, int], place: str | None) -> None:
    assert parity_child.place_for(10, free) == place


def test_what_is_needed_is_the_weights_and_room_beside_them(job: ReferenceJob) -> None:
    weights = sum(one.stat().st_size for one in Path(job.base_model).glob("*.safetensors"))
    assert parity_child.needed_bytes(job) == weights + (1 << 30)


async def test_a_python_without_the_libraries_says_that_it_is_unable(job: ReferenceJob, tmp_path: Path) -> None:
    blocked = (
        "import runpy, sys; sys.modules['peft'] = None; "
        "runpy.run_module('gaiad.learner.parity_child', run_name='__main__')"
    )
    run = await Run.start(
        job, python=sys.executable, log_path=tmp_path / "parity.log", silence_s=100, program=("-c", blocked)
    )
    async with run:
        found = await run.reference()
    assert found.measured == ()
    assert "cannot load an adapter" in found.unable
