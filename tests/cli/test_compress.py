"""`sfumato compress`: from a model to a smaller one, with a table that hides nothing."""

import json
from pathlib import Path

import pytest

from sfumato.cli import main

FEW = ["--rows", "2", "--n", "1", "--max-tokens", "6", "--calibration", "4"]


@pytest.fixture
def words(trained: Path, tmp_path: Path) -> list[str]:
    data = trained.parent / "stories.jsonl"
    return ["compress", str(trained / "model"), str(tmp_path / "less"), "--data", str(data), *FEW]


def test_prune_heal_and_quantise(words: list[str], tmp_path: Path, capsys):
    flags = ["--heads", "1", "--mlp-width", "24", "--heal-tokens", "1024", "--quantise", "int8", "--json"]
    assert main([*words, *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["how"]["pruned"] == {"layers": 1, "heads": 1, "mlp_width": 24}
    assert found["how"]["healed_tokens"] == 1024 and found["how"]["quantised"] == "int8"
    old, new = found["original"], found["compressed"]
    assert new["parameters"] < old["parameters"] and new["disk_bytes"] < old["disk_bytes"]
    bits = found["quality"]["bits_per_byte"]
    assert bits["compressed"] - bits["original"] == pytest.approx(bits["difference"])
    assert len(found["quality"]["levels"]) == 4
    assert not (tmp_path / "less.healing").exists()
    assert main(["info", str(tmp_path / "less")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "quantised int8 (8 matrices)" in shown and "head width 16" in shown
    card = (tmp_path / "less" / "README.md").read_text()
    assert "pruned to layers 1, heads 1, mlp width 24, healed on 1,024 tokens, quantised to int8" in card
    assert "| bits/byte | <= " in card and "What follows describes the model that it was made from" in card


def test_the_table_has_both_and_the_change(words: list[str], capsys):
    assert main([*words, "--quantise", "int4", "--group", "8"]) == 0
    shown = capsys.readouterr().out
    for title in (
        "bits/byte",
        "noise 0.75 to 1",
        "on disk",
        "in memory",
        "tokens/s",
        "original",
        "compressed",
        "change",
    ):
        assert title in shown
    assert "+- is a standard error" in shown and "torch" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to do: give --parameters, --layers, --heads, --mlp-width or --quantise"),
        (["--quantise", "int8", "--heal-tokens", "1000"], "--heal-tokens: nothing was pruned"),
        (["--quantise", "float8"], "float8 needs a GPU"),
        (["--quantise", "int3"], "--quantise: expected"),
        (["--layers", "5"], "layers: got 5, expected 1 to 1"),
        (["--parameters", "0.5", "--heads", "1"], "--parameters chooses layers, heads and MLP width itself"),
        (["--parameters", "0.01"], "embeddings are not pruned"),
        (["--heads", "1", "--calibration", "0"], "--calibration 0: pruning chooses by"),
        (["--quantise", "int4", "--group", "10"], "10 does not divide the 32 inputs"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags: list[str], message: str, words: list[str], capsys):
    assert main([*words, *flags]) == 2
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("sfumato: ")]
    assert shown.out == "" and len(lines) == 1 and message in lines[0]


def test_without_text_nothing_can_be_chosen(trained: Path, tmp_path: Path, capsys):
    assert main(["compress", str(trained / "model"), str(tmp_path / "less"), "--quantise", "int8"]) == 2
    assert "missing --data FILE" in capsys.readouterr().err


def test_a_healing_of_another_compression_is_not_continued(words: list[str], tmp_path: Path, capsys):
    place = tmp_path / "less.healing"
    assert main([*words, "--heads", "1"]) == 0
    (tmp_path / "less").rename(tmp_path / "other")
    place.mkdir()
    (tmp_path / "other").rename(place / "pruned")
    assert main([*words, "--mlp-width", "24", "--heal-tokens", "1024"]) == 2
    assert "belongs to another compression; delete it" in capsys.readouterr().err


def test_what_is_there_already_is_left_alone(words: list[str], tmp_path: Path, capsys):
    model, thesis = words[1], tmp_path / "less"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    for out in (words[2], model, str(thesis / "chapter.txt")):
        assert main([*words[:2], out, *words[3:], "--quantise", "int8"]) == 2
        assert f"sfumato: {out}: is there already; name a new folder" in capsys.readouterr().err
    assert [file.name for file in thesis.iterdir()] == ["chapter.txt"]


def test_a_result_that_was_never_measured_is_made_again(words: list[str], tmp_path: Path, capsys):
    (tmp_path / "less").mkdir()
    (tmp_path / "less" / "config.json").write_text("{}")
    (tmp_path / "less.healing").mkdir()
    assert main([*words, "--heads", "1", "--heal-tokens", "1024"]) == 0
    assert not (tmp_path / "less.healing").exists()


def test_groups_that_do_not_fit_are_refused_before_healing(words: list[str], tmp_path: Path, capsys):
    assert main([*words, "--mlp-width", "20", "--heal-tokens", "1024", "--quantise", "int4", "--group", "8"]) == 2
    assert "8 does not divide the 20 inputs of blocks.0.down" in capsys.readouterr().err
    assert not (tmp_path / "less.healing").exists()
    kept = ["--keep", "down", "--mlp-width", "20", "--quantise", "int4", "--group", "8"]
    assert main([*words, *kept]) == 0


def test_a_stopped_healing_is_kept_by_a_command_that_heals_nothing(words: list[str], tmp_path: Path):
    (tmp_path / "less.healing" / "pruned").mkdir(parents=True)
    assert main([*words, "--quantise", "int8"]) == 0
    assert (tmp_path / "less.healing" / "pruned").is_dir()


def test_texts_for_the_speed_fit_into_a_short_context(words: list[str], capsys):
    longer = [*words[: words.index("--max-tokens")], "--calibration", "0"]  # the default is more than it holds
    assert main([*longer, "--quantise", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compressed"]["tokens_per_second"] > 0


def test_a_rate_of_zero_has_no_ratio():
    from sfumato.cli.beside import _row

    assert _row("tokens/s", 0, 5, "{:,.0f}") == ("tokens/s", "0", "5", "")
