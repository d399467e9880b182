"""Folders of public models in the place of a bundle: written with, measured, adapted, talked to."""

import json
from pathlib import Path

import public
import pytest

import sfumato
from sfumato.cli import main

Captured = pytest.CaptureFixture[str]
QWEN = {"model_type": "qwen2", **{k: v for k, v in public.DREAM.items() if k not in ("model_type", "mask_token_id")}}
CONTENTS = {"llada": public.LLADA, "dream": public.DREAM, "sdar": public.SDAR}
CHAT = (
    "{% for message in messages %}{{ '<|begin|>' + message['role'] + '\n' + message['content'] + '<|endoftext|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("public")
    for name, content in CONTENTS.items():
        public.write_checkpoint(place / name, content, seed=3)
    public.write_checkpoint(place / "qwen2", public.DREAM, seed=3)
    (place / "qwen2" / "config.json").write_text(json.dumps(QWEN))
    lines = [json.dumps({"text": text}) for text in ("hello there my friend", "another line of text", "and one more")]
    (place / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return {name: place / name for name in (*CONTENTS, "qwen2", "texts.jsonl")}


@pytest.mark.parametrize(("name", "nfe"), [("llada", 8), ("dream", 8), ("sdar", None), ("qwen2", 8)])
def test_it_writes_as_its_family_does(folders: dict[str, Path], name: str, nfe: int | None, capsys: Captured):
    words = ["generate", "hello", "--model", str(folders[name]), "--max-tokens", "8", "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["text"].startswith("hello") and first["stats"]["committed"] <= 8
    assert nfe is None or first["stats"]["nfe"] == nfe  # one token a step
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["text"] == first["text"]


@pytest.mark.parametrize(("name", "kind"), [("llada", "bound"), ("sdar", "bound"), ("qwen2", "exact")])
def test_it_is_measured(folders: dict[str, Path], name: str, kind: str, capsys: Captured):
    assert main(["evaluate", str(folders[name]), "--data", str(folders["texts.jsonl"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == kind and 4 < found["nats_per_token"] < 12


def test_a_qwen_that_was_adapted_is_a_dream(folders: dict[str, Path], tmp_path: Path, capsys: Captured):
    (tmp_path / "adapt.toml").write_text(
        f"""
name = "adapted"
init = "{folders["qwen2"]}"
method = "adapt"
[model]
context = 32
[data]
sources = [{{ path = "{folders["texts.jsonl"]}" }}]
held_out = 0.3
cache = "{tmp_path / "cache"}"
[train]
steps = 2
batch = 2
warmup = 1
device = "cpu"
dtype = "float32"
threads = 1
"""
    )
    assert main(["tune", str(tmp_path / "adapt.toml"), "--out", str(tmp_path / "run")]) == 0
    assert main(["convert", str(tmp_path / "run" / "model"), str(tmp_path / "dream"), "--to", "dream"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "dream"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["shift"], facts["process"]["kind"]) == ("Dream", 1, "masked")


def test_it_answers(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.LLADA, seed=3)
    public.write_tokenizer(tmp_path, chat=CHAT)
    model = sfumato.load(tmp_path)
    answer = model.reply([{"role": "user", "content": "hi"}], max_tokens=6)
    prompt = [public.START, *model.tokenizer.encode("user\nhi"), public.END]
    cue = [public.START, *model.tokenizer.encode("assistant\n")]
    assert list(answer.tokens[: len(prompt) + len(cue)]) == prompt + cue
