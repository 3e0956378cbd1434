from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from gaiad.curriculum import LoraSpec, TrainingSpec
from gaiad.errors import TrainingError
from gaiad.learner.protocol import Job, Message, Progress, Result
from gaiad.learner.runner import Run, child_environment

FAKE = Path(__file__).parents[2] / "fakes" / "trainer.py"


def job(folder: Path) -> Job:
    return Job(
        base_model="/models/base",
        train_path="/d/train.jsonl",
        validation_path="/d/validation.jsonl",
        output_dir=str(folder / "staging"),
        lora=LoraSpec(4, 8, 0.0, ("q_proj", "v_proj")),
        training=TrainingSpec(320, 4, 4, 5e-4, 1, 0.0, 1.0, "nf4", 2, 3, 7),
        threads=1,
    )


async def start(folder: Path, fault: str, *, silence_s: float = 20.0) -> Run:
    return await Run.start(
        job(folder),
        python=sys.executable,
        log_path=folder / "run.log",
        silence_s=silence_s,
        program=(str(FAKE), fault),
    )


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


async def until_dead(pid: int) -> None:
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110 (another's child cannot be waited for)
            await asyncio.sleep(0.01)


async def test_a_run_that_keeps_the_protocol_gives_its_result(tmp_path: Path) -> None:
    run = await start(tmp_path, "normal")
    heard: list[Message] = [message async for message in run.messages()]
    result = await run.outcome()
    assert [message.type for message in heard] == ["hello", *["progress"] * 5, "checkpoint", "result"]
    assert heard[-1] == result
    await until_dead(run.pid)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("hang", "said nothing"),
        ("garbage", "not JSON"),
        ("torn", "torn"),
        ("endless", "endless line"),
        ("die", r"signal 9 \(SIGKILL\): somebody, or the kernel for want of memory, ended it \(see"),
        ("exit_0_without_result", "without a result"),
        ("result_then_exit_3", "exit code 3"),
        ("error", "the base model is missing"),
    ],
)
async def test_no_broken_run_counts_as_success_and_none_outlives_its_failure(
    tmp_path: Path, fault: str, sentence: str
) -> None:
    run = await start(tmp_path, fault, silence_s=1.0 if fault == "hang" else 20.0)
    with pytest.raises(TrainingError, match=sentence) as caught:
        await run.outcome()
    assert caught.value.hint
    await until_dead(run.pid)


async def test_the_whole_group_dies_with_the_run(tmp_path: Path) -> None:
    run = await start(tmp_path, "grandchild", silence_s=3600)
    with pytest.raises(TrainingError) as caught:
        await run.outcome()
    await until_dead(int(caught.value.message))


async def test_the_child_sees_no_secret_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "https_proxy", "GAIAD_SOCKET"):
        monkeypatch.setenv(name, "not for children")
    run = await start(tmp_path, "environment")
    with pytest.raises(TrainingError) as caught:
        await run.outcome()
    seen = json.loads(caught.value.message)
    assert "not for children" not in seen.values()
    assert (seen["HF_HUB_OFFLINE"], seen["TRANSFORMERS_OFFLINE"], seen["OMP_NUM_THREADS"]) == ("1", "1", "1")


def test_zero_threads_leaves_the_choice_to_torch() -> None:
    assert "OMP_NUM_THREADS" not in child_environment({"PATH": "/bin"}, threads=0)


async def test_a_stopped_run_says_so_and_ends(tmp_path: Path) -> None:
    run = await start(tmp_path, "slow")
    async for message in run.messages():
        if isinstance(message, Progress):
            break
    await run.stop(grace_s=20)
    with pytest.raises(TrainingError, match="stopped"):
        await run.outcome()
    assert not alive(run.pid)


async def test_a_run_that_ignores_stop_and_sigterm_is_killed(tmp_path: Path) -> None:
    run = await start(tmp_path, "ignore_sigterm")
    async for message in run.messages():
        if isinstance(message, Progress) and message.step == 1:
            break
    await run.stop(grace_s=0.4)
    assert not alive(run.pid)


async def test_a_paused_run_is_never_silent_and_goes_on_when_resumed(tmp_path: Path) -> None:
    run = await start(tmp_path, "slow", silence_s=1.5)
    heard = run.messages()
    assert (await anext(heard)).type == "hello"
    run.pause()
    rest = asyncio.ensure_future(collect(run))
    # Twice the deadline passes on the clock; the run must not notice.
    done, _ = await asyncio.wait({rest}, timeout=3.0)
    assert not done
    run.resume()
    messages = await rest
    assert isinstance(messages[-1], Result)
    assert (await run.outcome()).steps == 4


async def collect(run: Run) -> list[Message]:
    return [message async for message in run.messages()]


async def test_a_paused_run_that_is_stopped_never_runs_again(tmp_path: Path) -> None:
    run = await start(tmp_path, "slow")
    async for _ in run.messages():
        break
    run.pause()
    await run.stop(grace_s=20)
    assert not alive(run.pid)
    # Let go on, it would have heard `stop`, said so, and ended by itself.
    assert run._process.returncode == -signal.SIGKILL
    with pytest.raises(TrainingError, match="stopped"):
        await run.outcome()


async def test_a_run_that_ends_with_a_code_is_told_by_its_last_error(tmp_path: Path) -> None:
    program = "import sys; print('ValueError: no such dtype', file=sys.stderr); "
    program += "print('Failed to load CPU gemm_4bit_forward from kernels-community', file=sys.stderr); sys.exit(3)"
    run = await Run.start(
        job(tmp_path), python=sys.executable, log_path=tmp_path / "l", silence_s=20.0, program=("-c", program)
    )
    with pytest.raises(TrainingError, match=r"ended with exit code 3: ValueError: no such dtype \(see"):
        await run.outcome()


async def test_an_abandoned_run_is_ended_by_its_context(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError):
        async with await start(tmp_path, "hang") as run:
            raise RuntimeError
    assert not alive(run.pid)


async def test_a_child_whose_parent_is_gone_ends(tmp_path: Path) -> None:
    run = await start(tmp_path, "slow")
    assert run._process.stdin is not None
    run._process.stdin.close()
    with pytest.raises(TrainingError):
        await run.outcome()
    await until_dead(run.pid)


async def test_a_missing_python_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="could not be started"):
        await Run.start(job(tmp_path), python="/no/python", log_path=tmp_path / "l", silence_s=1.0)


async def test_a_kill_from_outside_is_named(tmp_path: Path) -> None:
    run = await start(tmp_path, "hang")
    async for message in run.messages():
        if isinstance(message, Progress):
            break
    os.killpg(run.pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match="SIGKILL"):
        await run.outcome()
