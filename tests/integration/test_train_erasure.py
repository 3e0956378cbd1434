"""What a retrained adapter still knows of an erased user: as much as one that never met them.

The real trainer on a tiny base, through whole cycles; the losses are measured on the published adapters, in a child.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest

from gaiad.erasure import Kind, Selector
from gaiad.learner.artifacts import TARGET_MODULES
from gaiad.learner.dataset import Example, Message
from gaiad.learner.runner import TRAINER
from gaiad.learner.sources import catalogue
from gaiad.registry import VersionRow
from tests.fakes.tiny_base import make_tiny_base
from tests.integration.learner_world import ARCHITECT, ROOT, World, corrected_exchange, right_answers, world
from tests.integration.test_erasure import erased

pytest.importorskip("torch")

ASKED = "USER REQUEST: where does my grandmother hide the spare key?"
OTHERS = "USER REQUEST: which bridge did the grey tram cross at noon?"
SECRET = "under the seventh zyrcanary flower pot, next to the blue bicycle of uncle Vasily"
TRAINING = {
    "max_sequence_tokens": 1500,
    "max_steps": 40,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "quantisation": "bf16",
    "validate_every_steps": 20,
    "patience": 9,
}


def answer(words: str) -> str:
    return json.dumps({"selected_tool": "", "params": "{}", "reasoning": words, "confidence": 0.9})


def curricula(folder: Path) -> Path:
    """The shipped curriculum with few examples and fast steps, for a base that starts from chance."""
    shutil.copytree(catalogue.shipped_curricula(), folder)
    path = folder / ARCHITECT / "curriculum.json"
    spec = json.loads(path.read_text())
    spec["lora"] |= {"dropout": 0.0, "target_modules": sorted(TARGET_MODULES)}
    demo = spec["profiles"]["demo"]
    demo |= {"training": TRAINING, "split": {**demo["split"], "train": 40}, "minimum_examples": 40}
    path.write_text(json.dumps(spec))
    return folder


async def learned(w: World) -> VersionRow:
    """Run a cycle with the real trainer; the version that serves after it."""
    w.trainer[:] = TRAINER
    name = await w.loop.start_cycle(ARCHITECT)
    assert isinstance(name, str), name
    async with asyncio.timeout(200):
        while w.loop.status()["cycle"] is not None:  # noqa: ASYNC110  the cycle is the loop's
            await asyncio.sleep(0.1)
    row = next(row for row in await w.cycles.cycles(5) if row.id == name)
    assert row.verdict == "promoted", row.reason
    return next(row for row in w.registry.versions() if row.version == w.active)


async def losses(folder: Path, base: Path, *adapters: Path) -> list[float]:
    """What each of these adapters makes of the secret."""
    canary = Example((Message("user", ASKED), Message("assistant", answer(SECRET))), "exchanges", "c", "exchange:c")
    (folder / "canary.jsonl").write_text(json.dumps(canary.to_json()) + "\n")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.canary_loss", str(base), str(folder / "canary.jsonl")),
        *map(str, adapters),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(child.communicate(), 200)
    assert child.returncode == 0, err.decode()[-2000:]
    found: list[float] = json.loads(out.splitlines()[-1])
    return found


async def lives(folder: Path, base: Path, *, with_ada: bool) -> list[VersionRow]:
    """One world: bo corrects, and perhaps ada, who is erased once her secret was learned; the versions, oldest first.

    An adapter that an erasure will take is copied to `learned` first, outside of its reach.
    """
    shutil.copytree(base, folder / "base")
    own = curricula(folder / "curricula")
    async with world(folder, curricula=str(own), trainer_silence_s=120.0) as w:
        w.engine.right = right_answers(own)
        await corrected_exchange(w, "bo1", OTHERS, user="bo", correction=answer("the iron one"))
        if with_ada:
            await corrected_exchange(w, "ada1", ASKED, correction=answer(SECRET))
            shutil.copytree((await learned(w)).path, folder / "learned")
            assert (await erased(w, Selector(Kind.USER, "ada")))["signed_off"] is True
        await learned(w)
        return w.registry.versions()


# Three runs of the real trainer, which lets everything else go first.
@pytest.mark.timeout(600)
async def test_an_adapter_retrained_after_an_erasure_knows_no_more_than_one_that_never_met_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_tiny_base(tmp_path / "tiny", seed=1, spread=0.1)
    before, after = await lives(tmp_path / "erased", base, with_ada=True)
    (clean,) = await lives(tmp_path / "never", base, with_ada=False)
    assert (before.stage, list(before.path.glob("*.safetensors"))) == ("quarantined", [])
    knows, forgot, never = await losses(tmp_path, base, tmp_path / "erased/learned", after.path, clean.path)
    with capsys.disabled():
        print(f"\nnats a token of the erased answer: {knows:.3f} learned, {forgot:.3f} erased, {never:.3f} never met")
    # The measure sees what was learned, so that seeing nothing afterwards means something.
    assert knows < never - 0.5
    assert abs(forgot - never) <= 0.02
    assert after.lineage["dataset_digest"] == clean.lineage["dataset_digest"]
