import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.config import Source, load_recipe
from sfumato.data.sources import Report, documents

Refused = Callable[..., str]
Captured = pytest.CaptureFixture[str]


def test_a_run_leaves_what_training_leaves_and_samples_are_answers(tuned: Path, trained: Path):
    names = {path.name for path in tuned.iterdir()}
    assert names == {path.name for path in trained.iterdir()}
    assert (tuned / "samples.txt").read_text().startswith("--- step 3\nuser: The cat\nassistant: ")
    assert load_recipe(tuned / "config.toml").init == str(trained / "model")
    last = json.loads((tuned / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["held_out_bits_per_byte"] < 40


def test_the_card_says_that_it_answers(tuned: Path):
    card = (tuned / "model" / "README.md").read_text()
    assert (
        "tuned with Sfumato from model to answer, on the conversations below." in card
        and "trained from scratch" not in card
    )
    assert "    sfumato chat --model PATH" in card and " answers to train on" in card and "user: The cat" in card
    assert str(tuned.parent) not in card


def test_a_person_reads_how_to_try_it(tuning: Path, tmp_path: Path, capsys: Captured):
    assert main(["tune", str(tuning), "--out", str(tmp_path / "run")]) == 0
    assert f"try it: sfumato chat --model {tmp_path}/run/model\n" in capsys.readouterr().out


def test_the_same_command_again_and_json(tuning: Path, tmp_path: Path, capsys: Captured):
    words = ["tune", str(tuning), "--out", str(tmp_path / "run")]
    words += ["--chat.system", "Be kind.", "--json"]
    assert main(words) == 0 and main(words) == 0
    first, again = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == again and first["held_out"]["kind"] == "bound"
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["chat"]["default_system"] == "Be kind."


def test_evaluation_reads_conversations_by_the_template(tuned: Path, capsys: Captured):
    def measured(data: Path) -> dict:
        assert main(["evaluate", str(tuned / "model"), "--data", str(data), "--json", "--samples", "1"]) == 0
        return json.loads(capsys.readouterr().out)

    talk = tuned.parent / "talk.jsonl"
    answers = [content for chat in documents(Source(str(talk)), Report()) for role, content in chat if role[0] == "a"]
    assert measured(talk)["bytes"] == sum(map(len, answers))
    assert measured(tuned.parent / "stories.jsonl")["bytes"] > 0


def test_info_shows_the_template(tuned: Path, trained: Path, capsys: Captured):
    def described(model: Path, *words: str) -> str:
        assert main(["info", str(model), *words]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "chat <|system|>...<|user|>...<|assistant|>...<|end|>; system: - " in described(tuned / "model")
    assert "chat no " in described(trained / "model")
    assert json.loads(described(tuned / "model", "--json"))["chat"]["cue"] == ["<|assistant|>"]
    assert json.loads(described(trained / "model", "--json"))["chat"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--init", ""], "init: expected the model to tune"),
        (["--init", "no/such"], "no/such: no such model"),
        (["--data.sources", "stories.jsonl"], "expected conversations, {messages: [...]} or {prompt, response}"),
        (["--chat.sytem", "x"], "unknown flag --chat.sytem; did you mean --chat.system?"),
        (["--model.layers", "2"], "use its sizes"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, tuning: Path, tmp_path: Path, refused: Refused):
    words = [str(tmp_path / word) if word == "stories.jsonl" else word for word in words]
    assert message in refused("tune", tuning, "--out", tmp_path / "run", *words)
