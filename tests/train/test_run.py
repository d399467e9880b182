import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from sfumato.config import DataConfig, Recipe, TokenizerConfig, load_recipe
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.run import Metrics, RunError, num_steps, open_run, open_tokenizer, write_text

Make = Callable[..., Recipe]


def test_auto_is_settled_once_and_written_down(tmp_path: Path, recipe: Make) -> None:
    asked = recipe(device="auto", dtype="auto")
    settled = open_run(asked, tmp_path / "run")
    assert settled.train.device in ("cpu", "cuda", "mps") and settled.train.dtype in ("float32", "bfloat16")
    assert load_recipe(tmp_path / "run" / "config.toml") == settled
    assert open_run(asked, tmp_path / "run") == settled == open_run(settled, tmp_path / "run")


@pytest.mark.parametrize(
    "changes, name, values",
    [
        ({"lr": 1.0}, "train.lr", ("0.002", "1.0")),
        ({"steps": 13}, "train.steps", ("12", "13")),
        ({"model": {"width": 64}}, "model.width", ("32", "64")),
        ({"process": {"kind": "autoregressive"}}, "process.kind", ("'masked'", "'autoregressive'")),
        ({"seed": 6}, "seed", ("5", "6")),
    ],
)
def test_another_recipe_in_the_same_folder_is_one_clear_error(
    tmp_path: Path, recipe: Make, changes: dict, name: str, values: tuple[str, str]
) -> None:
    open_run(recipe(), tmp_path)
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    config = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(RunError) as caught:
        open_run(recipe(**changes), tmp_path)
    started = f"{tmp_path / 'config.toml'}: this run was started with {name} = {values[0]}, now it is {values[1]}; "
    assert str(caught.value).startswith(started) and "\n" not in str(caught.value)
    assert (tmp_path / "config.toml").read_bytes() == config


def test_before_the_first_checkpoint_another_recipe_may_take_the_folder(tmp_path: Path, recipe: Make) -> None:
    open_run(recipe(), tmp_path)
    assert open_run(recipe(lr=1.0), tmp_path).train.lr == 1.0
    assert load_recipe(tmp_path / "config.toml").train.lr == 1.0


def test_what_does_not_change_the_result_may_change(tmp_path: Path, recipe: Make) -> None:
    open_run(recipe(), tmp_path)
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    changed = recipe(checkpoint_every=7, keep=5, evaluate_every=3, sample_every=3, threads=2, checkpointing=True)
    assert open_run(changed, tmp_path) == changed


def test_the_number_of_steps_is_given_or_follows_from_the_tokens(recipe: Make) -> None:
    assert num_steps(recipe(steps=7, tokens=10**9)) == 7
    assert num_steps(recipe(steps=0, tokens=8 * 32 * 10)) == 10
    assert num_steps(recipe(steps=0, tokens=8 * 32 * 10 + 1, accumulate=2)) == 6
    with pytest.raises(ValueError, match=r"^train.steps and train.tokens are both 0: say how long to train, such as"):
        num_steps(recipe(steps=0))


def test_a_run_keeps_its_tokenizer(tmp_path: Path, recipe: Make, text: Path) -> None:
    made = open_tokenizer(recipe(), tmp_path)
    assert made.fingerprint == Tokenizer.load(text / "tokenizer.json").fingerprint
    elsewhere = replace(recipe(), tokenizer=TokenizerConfig(path=str(tmp_path / "gone.json")))
    assert open_tokenizer(elsewhere, tmp_path).fingerprint == made.fingerprint


def test_without_a_path_the_tokenizer_is_trained_on_the_data(tmp_path: Path, recipe: Make) -> None:
    asked = replace(recipe(), tokenizer=TokenizerConfig(vocab_size=280))
    assert open_tokenizer(asked, tmp_path).vocab_size == 280
    with pytest.raises(ValueError, match="no text in it") as caught:
        open_tokenizer(replace(asked, data=DataConfig()), tmp_path / "other")
    assert "\n" not in str(caught.value)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in range(1, 8)) + '{"step": 8, "lo')
    metrics = Metrics(path, 4, pytest.fail)
    metrics.write(step=5, loss=0.25)
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_a_full_disk_names_the_metrics(
    tmp_path: Path, disk_full: Callable[[int], AbstractContextManager[None]], quick: None
) -> None:
    said: list[str] = []
    metrics = Metrics(tmp_path / "metrics.jsonl", 0, said.append)
    with disk_full(20):
        metrics.write(step=1, loss=0.123456789)
        with pytest.raises(OSError, match="metrics.jsonl: cannot write .*File too large"):
            metrics.finish()
    metrics.close()
    assert "metrics.jsonl: cannot write" in said[0] and "training goes on" in said[0]


def test_metrics_that_somebody_else_writes_are_not_written(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0, pytest.fail, silent=True)
    metrics.write(step=1)
    metrics.finish()
    metrics.close()
    assert not list(tmp_path.iterdir())


def test_a_small_file_is_written_whole_or_not_at_all(
    tmp_path: Path, disk_full: Callable[[int], AbstractContextManager[None]]
) -> None:
    write_text(tmp_path / "file", "old — ü")
    with disk_full(10), pytest.raises(OSError):
        write_text(tmp_path / "file", "x" * 100)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old — ü")]
