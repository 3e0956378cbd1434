"""The bench of a GPU runs to its end on a CPU with a tiny base, and measures nothing where there is no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from bench import train_gpu  # noqa: E402


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_smoke_run_trains_both_quantisations_by_the_trainers_own_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_gpu.main(["--smoke", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["smoke"] is True
    assert told["peak_flops"] > 0
    rows = told["rows"]
    assert [row["quantisation"] for row in rows] == ["nf4", "bf16"]
    size = train_gpu.SMOKE
    examples, _ = train_gpu.synthetic(size, seed=7)
    for row in rows:
        assert row["steps"] == size.examples // size.batch
        assert row["tokens"] == sum(len(example) for example in examples)
        assert 0 < row["computed_tokens"] < row["tokens"], "nothing was shared"
        assert 0 < row["share"] < 1
        assert row["seconds"] > 0
        assert row["peak_bytes"] > 0
        assert "expected at the peak" in row["notes"][0]
        assert row["attention"] == "parts"
        assert len(row["notes"]) == 1


def test_a_cap_that_nothing_fits_into_ends_the_bench_with_what_to_try() -> None:
    with pytest.raises(SystemExit, match=r"does not fit.*use a smaller base"):
        train_gpu.main(["--smoke", "--cap-gib", "0.0001"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_bench_says_what_to_try() -> None:
    with pytest.raises(SystemExit, match="no GPU; try --smoke"):
        train_gpu.main([])


def test_the_examples_are_as_many_and_as_long_as_was_said_and_share_their_catalogues() -> None:
    examples, kinds = train_gpu.synthetic(train_gpu.FULL, seed=7)
    assert len(examples) == len(kinds) == 1000
    assert 900 < max(len(example) for example in examples) <= 1024
    assert len({example.prompt[:300] for example in examples}) == len(set(kinds)) == train_gpu.FULL.catalogues
    assert train_gpu.synthetic(train_gpu.FULL, seed=7)[0] == examples


def test_the_full_base_has_the_shape_that_is_promised() -> None:
    assert train_gpu.FULL.shape.weights == pytest.approx(3.93e9, rel=0.005)
    assert train_gpu.FULL.spec.max_steps * train_gpu.FULL.batch == 1000
