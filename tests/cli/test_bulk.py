"""`sfumato generate --input`: a file of prompts, a summary, and one line for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import sfumato
from sfumato.cli import main

Refused = Callable[..., str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Once", "id": 1}\n{"template": "a {2} mouse"}\n{"prompt": "It", "max_tokens": 3}\n')
    return path


@pytest.fixture
def call(masked_bundle: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    def called(*words: str) -> tuple[int, str, str]:
        flags = ["--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32", "--max-tokens", "8"]
        code = main(["generate", "--input", str(source), "--output", str(tmp_path / "out.jsonl"), *flags, *words])
        return code, *capsys.readouterr()

    return called


def test_texts_go_to_the_file_and_the_summary_to_the_screen(call, masked_bundle: Path, tmp_path: Path):
    code, out, err = call("--seed", "4", "--sampler", "entropy")
    assert (code, err) == (0, "") and out.startswith(f"{tmp_path}/out.jsonl: 3 lines\n") and "tokens/s, NFE" in out
    model = sfumato.load(masked_bundle, device="cpu", dtype="float32")
    requests = ["Once", {"template": "a {2} mouse"}, {"prompt": "It", "max_tokens": 3}]
    expected = [one.text for one in model.generate_many(requests, max_tokens=8, seed=4, sampler="entropy")]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == expected


def test_json_says_it_in_numbers_and_a_second_run_has_nothing_to_do(call, source: Path):
    found = json.loads(call("--json")[1])
    assert (found["lines"], found["resumed"], found["errors"], found["batch"]) == (3, 0, 0, 8)
    assert found["tokens"] == 8 + 2 + 3 and found["input"] == str(source)
    code, out, _ = call()
    assert code == 0 and "3 lines, 3 of them by an earlier run" in out and "tokens" not in out


def test_a_constraint_and_guidance_hold_for_all_lines(call, source: Path, tmp_path: Path):
    source.write_text('{"prompt": "Once"}\n{"prompt": "It"}\n')
    assert call("--one-of", " red, ball", "--guidance", "0.5")[0] == 0
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        assert json.loads(line)["completion"] in ("red", "ball")
    source.write_text('{"prompt": "Once"}\n{"template": "a {2} b"}\n')
    assert f"{source}:2: constraint: works on an open end" in call("--one-of", " red, ball")[2]
    source.write_text('{"prompt": "Once"}\n{"prompt": "It"}\n')
    code, _, err = call("--one-of", " red, mouse", "--guidance", "0.5")
    assert code == 2 and "not what this run would write" in err


def test_bad_lines_are_named_or_skipped(call, source: Path, tmp_path: Path):
    source.write_text('{"prompt": "Once"}\n{"prompt": "It", "stepz": 3}\n')
    code, _, err = call()
    assert code == 2 and err == f"sfumato: {source}:2: unknown key 'stepz'; did you mean steps?\n"
    assert not (tmp_path / "out.jsonl").exists()
    code, out, _ = call("--on-error", "skip")
    assert code == 0 and "2 lines, 1 not understood" in out


def test_flags_that_make_no_sense_are_refused(source: Path, tmp_path: Path, refused: Refused):
    out = tmp_path / "out.jsonl"
    assert refused("generate").startswith("missing: prompt; give a text to continue, or --input FILE")
    assert refused("generate", "--input", source).startswith("missing --output FILE")
    assert refused("generate", "a", "--output", out).startswith("--output goes with --input")
    assert refused("generate", "a", "--input", source, "--output", out).startswith("PROMPT and --input")
    for words in (("--n", "2"), ("--html", "a.html"), ("--keywords", "cat"), ("--best-of", "2")):
        message = refused("generate", "--input", source, "--output", out, *words)
        assert message.startswith(f"{words[0]}: not with --input")
    assert "No such file" in refused("generate", "--input", tmp_path / "none.jsonl", "--output", out)
