"""`sfumato generate` with a form to obey."""

import json
import re
from pathlib import Path

import pytest

from sfumato.cli import main

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", 1]}, "b": {"type": "boolean"}}, "required": ["b"]}


@pytest.fixture
def call(masked_bundle: Path, capsys: pytest.CaptureFixture[str]):
    def called(*words: str) -> tuple[int, str, str]:
        options = ("--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32", "--max-tokens", "40")
        return main(["generate", "Once", *options, *words]), *capsys.readouterr()

    return called


def test_texts_obey(call, tmp_path: Path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    code, out, _ = call("--regex", " [a-d]{3}!")
    assert code == 0 and re.fullmatch(r"Once [a-d]{3}!\n", out)
    code, out, _ = call("--one-of", "yes,no way", "--best-of", "2")
    assert code == 0 and out in ("Onceyes\n", "Onceno way\n")
    code, out, _ = call("--json-schema", str(file), "--json")
    told = json.loads(out)
    assert code == 0 and isinstance(json.loads(told["completion"])["b"], bool) and told["finish_reason"] == "stop"
    code, out, _ = call("--json-object", "--json")
    assert code == 0 and isinstance(json.loads(json.loads(out)["completion"]), dict)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--regex", "a", "--json-object"], "--regex and --json-object: give one of them"),
        (["--regex", "(a"], "regex: not a regular expression"),
        (["--json-schema", "nowhere.json"], "--json-schema: cannot read nowhere.json: No such file"),
        (["--regex", "a{50}"], "max_tokens: got room for 40, but the shortest valid text needs at least 50 tokens"),
        (["--regex", "a", "--sampler", "remdm"], "sampler: 'remdm' may guess or take back"),
    ],
)
def test_mistakes_are_one_line(call, words: list[str], told: str):
    code, out, err = call(*words)
    assert code == 2 and out == "" and told in err and len(err.splitlines()) == 1
