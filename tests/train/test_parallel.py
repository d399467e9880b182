"""Several processes train as one: the same curve, the same checkpoints, the same mistakes, told once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import Leaving, apart, disagreeing, doubled, first_losses, left, together, trained, updated

from sfumato.config import ConfigError, Recipe, TrainConfig
from sfumato.model.bundle import Bundle
from sfumato.train import checkpoint
from sfumato.train.parallel import Processes, joined

Make = Callable[..., Recipe]
NEAR = {"rel": 1e-5, "abs": 1e-5}  # sums in another order


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve(out: Path) -> list[float]:
    return [record[name] for record in records(out) for name in ("loss", "grad_norm")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def asked(recipe: Make) -> Callable[..., Recipe]:
    return lambda shard=0, **more: recipe(
        batch=4, accumulate=2, steps=6, checkpoint_every=2, keep=9, shard=shard, **more
    )


@pytest.fixture
def alone(folder: Path, asked: Make) -> Path:
    """The run of one process."""
    if not (folder / "alone").exists():
        trained((asked(), folder / "alone"))
    return folder / "alone"


@pytest.mark.parametrize("count, shards", [(2, (1, 0)), (4, (1, 2, 0))])
def test_the_curve_does_not_depend_on_the_processes(
    folder: Path, asked: Make, alone: Path, count: int, shards: tuple[int, ...]
) -> None:
    runs = [(asked(shard), folder / f"{count}-{shard}") for shard in shards]
    made = together(count, trained, *runs)
    assert all(answer == [(out / "model", 0) for _, out in runs] for answer in made)
    expected = Bundle.load(alone / "model").denoiser.state_dict()
    for _, out in runs:
        assert curve(out) == pytest.approx(curve(alone), **NEAR)
        assert [r["tokens"] for r in records(out)] == [r["tokens"] for r in records(alone)]
        for name, weight in Bundle.load(out / "model").denoiser.state_dict().items():
            torch.testing.assert_close(weight, expected[name], rtol=0.01, atol=1e-4)  # they are kept in bfloat16


@pytest.mark.parametrize("chain", [((4, 0), (2, 0), (1, 0)), ((1, 0), (4, 2), (2, 1))], ids=str)
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, asked: Make, alone: Path, chain: tuple[tuple[int, int], ...]
) -> None:
    out = tmp_path / "run"
    for part, (count, shard) in enumerate(chain):
        together(count, trained, (asked(shard), out)) if count > 1 else trained((asked(), out))
        if part < 2:  # as if it had been stopped after 2 steps more
            for path in sorted((out / "checkpoints").iterdir())[part + 1 :]:
                shutil.rmtree(path)
            shutil.rmtree(out / "model")
    assert len(records(out)) == len(records(alone)) and curve(out) == pytest.approx(curve(alone), **NEAR)


def test_who_leaves_in_the_middle_leaves_a_whole_checkpoint(tmp_path: Path, asked: Make) -> None:
    assert together(2, left, asked(), tmp_path / "run", Leaving(4)) == ["ValueError", "ElsewhereError"]
    found = checkpoint.newest(tmp_path / "run" / "checkpoints", pytest.fail)
    assert found is not None and found.name == "step-00000004"


def test_machines_that_share_no_disk_are_told_before_they_train(tmp_path: Path, asked: Make) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    first, other = together(2, apart, asked(), folders)
    assert first == "ElsewhereError: another process tells why"
    assert other.startswith("RunError: run: process 1 on ") and "a disk that all machines share" in other


def test_every_kind_of_network_and_noise_is_shared(recipe: Make) -> None:
    blocks = recipe(model={"block": 4}, batch=4, accumulate=2)
    latents = {"latent": 8, "self_conditioning": True, "time_conditioning": True, "tied": False}
    gaussian = recipe(process={"kind": "gaussian", "schedule": "cosine"}, model=latents, batch=4, accumulate=2)
    growing = recipe(process={"kind": "insertion"}, batch=8, checkpointing=True)
    twin = recipe(process={"kind": "autoregressive"}, batch=8, optimizer="adamw")
    rough = recipe(batch=8, dtype="bfloat16")
    recipes = [blocks, gaussian, growing, twin, rough]
    expected = first_losses(recipes, 4)
    copied = [Recipe(**(vars(one) | {"train": TrainConfig(**(vars(one.train) | {"shard": 1}))})) for one in recipes]
    for answer in together(2, first_losses, recipes + copied, 4):
        for one, found, wanted in zip(recipes + copied, answer, expected * 2, strict=True):
            near = NEAR if one.train.dtype == "float32" else {"rel": 5e-3}  # layers are gathered in 8 bits of precision
            assert found == pytest.approx(wanted, **near)


def test_matrices_in_rows_are_worked_on_whole() -> None:
    assert together(3, doubled, [(3, 6, 4), (4, 7, 5), (1, 2, 3), (7, 1, 1)]) == [[True] * 4] * 3


def test_processes_that_hold_unequal_parts_exchange_as_many_matrices_at_a_time() -> None:
    # Of 5 rows one holds 3 and the other 2: 16 numbers are one matrix of the first, and two of the second.
    assert together(2, updated, 5, 16) == [True, True]


def test_a_mistake_is_told_once() -> None:
    elsewhere = ("ElsewhereError: the first process tells why", "ElsewhereError: another process tells why")
    first, second, third = together(3, disagreeing)
    assert first == ["0", "ValueError: process 0 cannot", elsewhere[1], "ValueError: process 0 cannot"] + [
        elsewhere[1],
        "2",
        "[0, 1, 2]",
    ]
    assert second == ["0", elsewhere[0], elsewhere[1], elsewhere[1], "ValueError: process 1 cannot", "2", "None"]
    assert third == ["0", elsewhere[0], "ValueError: process 2 cannot", elsewhere[1], elsewhere[1], "2", "None"]


@pytest.mark.parametrize(
    "count, batch, accumulate, rows, passes",
    [(1, 8, 3, 8, 3), (2, 8, 1, 4, 1), (4, 8, 4, 8, 1), (8, 8, 4, 4, 1), (4, 6, 2, 3, 1), (3, 8, 6, 8, 2)],
)
def test_rows_are_divided_among_passes_first(count: int, batch: int, accumulate: int, rows: int, passes: int) -> None:
    config = TrainConfig(batch=batch, accumulate=accumulate)
    assert Processes(0, count).rows(config) == (rows, passes)
    assert rows * passes * count == batch * accumulate


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match="train.batch = 8 and .* 3 processes; use 1, 2, 4, 8 of them"):
        Processes(0, 3).rows(TrainConfig(batch=8))
    started = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    with (
        pytest.raises(ConfigError, match="train.shard: 4 processes .* groups of 3"),
        joined(TrainConfig(shard=3), "cpu", started),
    ):
        pass
    small = TrainConfig(optimizer_state="8bit")
    with pytest.raises(ConfigError, match="optimizer_state: 8bit"), joined(small, "cpu", started):
        pass


def test_one_process_needs_nobody() -> None:
    with joined(TrainConfig(), "cpu", {}) as processes:
        assert processes.count == 1 and processes.first and not torch.distributed.is_initialized()
        assert processes.gathered(3) == [3] and processes.agreed(lambda: 4) == 4 and processes.most(5) == 5
