import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.config import load_recipe
from sfumato.train import retry

Refused = Callable[..., str]
Captured = pytest.CaptureFixture[str]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_run_leaves_its_files(trained: Path):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "model",
        "samples.txt",
        "tokenizer.json",
    }
    assert {path.name for path in (trained / "model").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())] == ["step-00000002", "step-00000004"]
    assert [record["step"] for record in records(trained)] == [1, 2, 3, 4]
    assert load_recipe(trained / "config.toml").train.steps == 4


def test_the_last_step_is_evaluated_on_held_out_text(trained: Path):
    assert ["held_out_bits_per_byte" in record for record in records(trained)] == [False, False, False, True]
    assert 1 < records(trained)[-1]["held_out_bits_per_byte"] < 20


def test_samples_begin_with_the_prompt(trained: Path):
    assert (trained / "samples.txt").read_text(encoding="utf-8").startswith("--- step 3\nThe cat")


def test_the_model_card_says_what_it_is_and_names_no_folder(trained: Path):
    card = (trained / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# mini\n\nA masked diffusion language model of ")
    assert f"at most **{records(trained)[-1]['held_out_bits_per_byte']:.3f} bits/byte**" in card
    assert "stories.jsonl" in card and "4 steps, 512 tokens" in card and card.count("> The cat") == 3
    assert "Licence" in card and "limits" in card
    assert str(trained.parent) not in card


def test_json_is_all_that_standard_output_holds(recipe: Path, tmp_path: Path, capsys: Captured):
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.out.count("\n") == 1
    assert result["model"] == str(tmp_path / "run" / "model") and result["step"] == result["steps"] == 4
    assert result["held_out"]["kind"] == "bound" and result["held_out"]["samples"] == 4
    assert result["held_out"]["bits_per_byte"] == result["held_out_bits_per_byte"]
    assert "training 1" in captured.err and "step 4: loss " in captured.err


def test_a_person_reads_where_the_model_is_and_how_to_try_it(recipe: Path, tmp_path: Path, capsys: Captured):
    assert main(["train", str(recipe), "--out", str(tmp_path / "my run")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}/my run/model: 4 steps; held-out at most ")
    assert f"try it: sfumato generate 'The cat' --model '{tmp_path}/my run/model'\n" in out


def test_without_out_a_run_gets_the_name_of_its_recipe(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(recipe), "--train.steps", "1"]) == 0
    assert main(["train", str(recipe), "--train.steps", "1", "--name", "other"]) == 0
    assert (tmp_path / "runs/mini/model").is_dir() and (tmp_path / "runs/other/model").is_dir()


def test_settings_on_the_command_line_count(recipe: Path, tmp_path: Path):
    words = ["--train.steps", "2", "--seed", "9", "--process.kind", "autoregressive", "--dtype", "bfloat16"]
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), *words]) == 0
    made = load_recipe(tmp_path / "run/config.toml")
    assert (made.seed, made.train.steps, made.train.dtype) == (9, 2, "bfloat16")
    card = (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert "An autoregressive language model" in card and "exact value: log-likelihood" in card


def test_where_nothing_is_held_out_nothing_is_claimed(recipe: Path, tmp_path: Path, capsys: Captured):
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--data.held_out", "0"]) == 0
    assert "Not measured" in (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert "bits" not in capsys.readouterr().out


def test_a_sample_prompt_that_fills_the_context_stops_nothing(recipe: Path, tmp_path: Path):
    words = ["--train.sample_prompt", "the cat " * 40]
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), *words]) == 0
    assert "fills the context" in (tmp_path / "run/samples.txt").read_text(encoding="utf-8")


# --- again, and after an interruption ---------------------------------------------------------------------------------


def test_a_finished_run_may_be_started_again(recipe: Path, tmp_path: Path, capsys: Captured):
    words = ["train", str(recipe), "--out", str(tmp_path / "run"), "--json"]
    assert main(words) == 0
    first, card = weights(tmp_path / "run"), (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    once = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    assert weights(tmp_path / "run") == first
    assert (tmp_path / "run/model/README.md").read_text(encoding="utf-8") == card
    assert json.loads(capsys.readouterr().out) == once


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_continue_and_ends_the_same(recipe: Path, tmp_path: Path, number: int, code: int):
    words = ["train", str(recipe), "--train.steps", "80", "--train.batch", "1", "--train.checkpoint_every", "1000"]
    words += ["--train.sample_every", "0"]
    stopped = tmp_path / "stopped"
    process = start([*words, "--out", str(stopped)])
    wait_for_a_step(process, stopped)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, ""), err
    *_, last, advice = err.splitlines()
    done = len(records(stopped))
    assert last == f"stopped by {signal.Signals(number).name} after step {done} of 80, all saved in {stopped}"
    assert advice == "run the same command again to continue"
    assert 0 < done < 80 and not (stopped / "model").exists()
    if number == signal.SIGTERM:
        assert main([*words, "--out", str(stopped)]) == 0
        assert [record["step"] for record in records(stopped)] == list(range(1, 81))
        assert main([*words, "--out", str(tmp_path / "whole")]) == 0
        assert weights(stopped) == weights(tmp_path / "whole")


def start(words: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sfumato", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for_a_step(process: subprocess.Popen[str], run: Path) -> None:
    metrics, patience = run / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < patience
        time.sleep(0.005)


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_saved(
    recipe: Path, tmp_path: Path, disk_full, capsys: Captured, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.01))
    words = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    whole = weights(tmp_path / "run")
    for late in (tmp_path / "run/model", tmp_path / "run/checkpoints/step-00000004"):
        shutil.rmtree(late)
    capsys.readouterr()
    with disk_full(60_000):
        assert main(words) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("sfumato: ") and "cannot write the checkpoint" in last
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    assert main(words) == 0
    assert weights(tmp_path / "run") == whole


def test_a_run_is_not_continued_with_another_recipe(recipe: Path, tmp_path: Path, refused: Refused):
    words = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    line = refused(*words, "--train.lr", "1e-4")
    assert "this run was started with train.lr = 0.002, now it is 0.0001" in line and "another --out" in line


def test_an_attempt_that_failed_at_its_data_binds_nobody(
    recipe: Path, tmp_path: Path, refused: Refused, capsys: Captured
):
    stories = recipe.with_name("stories.jsonl")
    good = stories.read_bytes()
    stories.write_bytes(b"\n")
    words = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert "no text in it" in refused(*words)
    stories.write_bytes(good + b'{"text": 3}\nnonsense\n')
    assert refused(*words).startswith(f"{stories}:61: ")
    assert main([*words, "--data.on_error", "skip"]) == 0
    assert f"left out 2 broken lines, as {stories}:61: " in capsys.readouterr().err
    assert "2 broken lines left out" in (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "run/model/config.json").read_text())["model"]["vocab_size"] > 290


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--train.stps", "3"], "unknown flag --train.stps; did you mean --train.steps?"),
        (["--train.steps", "many"], "--train.steps: expected a whole number, got 'many'"),
        (["--train.steps", "0"], "train.steps and train.tokens are both 0"),
        (["--train.steps", "-1"], "--train.steps: expected at least 0, got '-1'"),
        (["--process.kind", "maskd"], "insertion or autoregressive, got 'maskd'; did you mean masked?"),
        (["--model.width", "30"], "model.width must be a multiple of"),
        (["--train.device", "tpu"], "--train.device: expected auto, cpu, cuda or mps, got 'tpu'"),
        (["--data.sources", "nowhere.txt"], "nowhere.txt: no such file or folder"),
        (["--data.sources", ""], "no text"),
        (["--tokenizer.path", "nowhere.json"], "nowhere.json: cannot read the tokenizer"),
        (["--model.vocab_size", "77"], "model.vocab_size: got 77, the tokenizer has"),
        (["--train.sample_prompt", "a\0b"], "train.sample_prompt holds a NUL character at position 1"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_a_wrong_setting_is_one_line(recipe: Path, tmp_path: Path, refused: Refused, words: list[str], expected: str):
    assert expected in refused("train", recipe, "--out", tmp_path / "run", *words)


def test_a_missing_recipe_is_one_line(tmp_path: Path, refused: Refused):
    assert refused("train", tmp_path / "none.toml") == f"{tmp_path}/none.toml: No such file or directory"
    assert refused("train").startswith("missing")


def test_an_unreadable_recipe_is_one_line_with_its_place(recipe: Path, refused: Refused):
    recipe.write_text('name = "mini"\n[model]\nwidth 3\n')
    assert refused("train", recipe).startswith(f"{recipe}:3: not valid TOML")
    recipe.write_text('name = "mini"\n[model]\nwdth = 3\n')
    assert refused("train", recipe) == f"{recipe}: unknown key model.wdth; did you mean model.width?"


def test_unreadable_bytes_are_one_line_with_their_place(recipe: Path, tmp_path: Path, refused: Refused):
    stories = recipe.with_name("stories.jsonl")
    stories.write_bytes(stories.read_bytes() + b'{"text": "caf\xe9"}\n')
    assert refused("train", recipe, "--out", tmp_path / "run").startswith(f"{stories}:61: not UTF-8 (byte 0xe9")


def test_empty_data_is_one_line(recipe: Path, tmp_path: Path, refused: Refused):
    recipe.with_name("stories.jsonl").write_bytes(b"")
    assert "stories.jsonl: no text in it; give " in refused("train", recipe, "--out", tmp_path / "run")


def test_a_run_folder_that_is_a_file_is_one_line(recipe: Path, refused: Refused):
    assert refused("train", recipe, "--out", recipe) == (
        f"--out {recipe}: expected a folder, there is a file; name another one"
    )


def test_a_damaged_checkpoint_is_one_line(recipe: Path, tmp_path: Path, refused: Refused, capsys: Captured):
    words = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    (tmp_path / "run/checkpoints/step-00000004/tensors.safetensors").write_bytes(b"\0" * 100)
    capsys.readouterr()
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "step-00000004: damaged checkpoint (tensors.safetensors is not what was written); set aside as" in err
    assert "continuing at step 2" in err
    for left in (tmp_path / "run/checkpoints").glob("step-*/tensors.safetensors"):
        left.write_bytes(b"")
    line = refused(*words)
    assert "damaged checkpoint" in line and "no earlier one is whole; delete" in line
