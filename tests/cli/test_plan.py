import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

Captured = pytest.CaptureFixture[str]


def test_a_size_gets_its_figures(capsys: Captured) -> None:
    assert main(["plan", "8B", "--tokens", "1e12", "--gpu", "h100", "--gpus", "64"]) == 0
    out = capsys.readouterr().out
    for part in ("8,015,581,184 parameters, 1T tokens", "64 x h100", "days", "fits", "checkpoint", "tokens/s", "6 N D"):
        assert part in out


def test_json_holds_the_same_figures(capsys: Captured) -> None:
    assert main(["plan", "1b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["share"] == {"processes": 1, "shard": 1, "batch": 8, "accumulate": 128}
    assert found["needed"] == sum(found["memory"].values()) and found["fits"]
    assert found["tokens"] == 80 * found["parameters"] == 80 * 1_100_048_384
    assert found["device_hours"] == pytest.approx(found["seconds"] / 3600)
    assert found["device"]["name"] == "h100" and found["writing"] and found["assumed"]["mfu"] == 0.4


@pytest.mark.parametrize("kind", ["masked", "autoregressive", "uniform", "insertion", "gaussian"])
def test_a_recipe_is_planned_whatever_its_noise(kind: str, tmp_path: Path, capsys: Captured) -> None:
    latent = "latent = 16\ntied = false\ntime_conditioning = true\n" if kind == "gaussian" else ""
    schedule = "cosine" if kind == "gaussian" else "linear"
    recipe = tmp_path / "some.toml"
    recipe.write_text(
        f"[model]\nwidth = 64\nheads = 2\n{latent}[train]\ntokens = 1000000\nbatch = 8\n"
        f'[process]\nkind = "{kind}"\nschedule = "{schedule}"\n'
    )
    assert main(["plan", str(recipe), "--gpu", "4090", "--gpus", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == 1e6 and found["share"]["processes"] == 4 and found["model"]["vocab_size"] == 4096


def test_formulas_are_shown_when_asked_for(capsys: Captured) -> None:
    assert main(["plan", "1B", "--formulas"]) == 0
    assert "reduce-scatter          of the gradients" in capsys.readouterr().out


def test_mistakes_are_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "expected 1B, 8B, 100B or a recipe" in refused("plan", "9B")
    assert "not known; one of h100" in refused("plan", "8B", "--gpu", "abacus")
    assert "cannot be divided among 3" in refused("plan", "8B", "--gpus", "3")
    assert "no number of 4090" in refused("plan", "100B", "--gpu", "4090", "--train.shard", "1")
