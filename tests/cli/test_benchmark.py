"""`sfumato evaluate --tasks`: a table for people, a report for programs, and a run that goes on."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.cli import main

pytest.importorskip("lm_eval")
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks")
    document = {"text": "The cat", "choices": [" sat", " ran twice"], "right": 0}
    (path / "data.jsonl").write_text(json.dumps(document) + "\n")
    (path / "cats.yaml").write_text(
        f"task: cats\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {path}/data.jsonl}}, "
        f"cache_dir: {path}}}\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{text}}'\ndoc_to_choice: choices\ntarget_delimiter: ''\n"
        "doc_to_target: right\nmetric_list: [{metric: acc}]\n"
    )
    return path


@pytest.fixture
def call(masked_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable:
    def called(*words: object) -> tuple[int, str, str]:
        flags = ["--tasks", "cats", "--include-path", folder, "--device", "cpu", "--dtype", "float32"]
        code = main([str(word) for word in ("evaluate", masked_bundle, *flags, *words)])
        return code, *capsys.readouterr()

    return called


def test_a_table_and_what_it_rests_on(call):
    code, out, err = call("--samples", "4")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0].split()[:2] == ["cats", "acc"] and "1 documents" in lines[0]
    assert lines[1].startswith("likelihood: bound (") and "samples, mean standard error" in lines[1]
    assert lines[2].startswith("loglikelihood: 2 requests, NFE ") and lines[-1].startswith("seed 0, weights ")


def test_json_and_a_file_say_the_same_and_a_second_run_goes_on(call, tmp_path: Path):
    report = json.loads(call("--samples", "4", "--output", tmp_path / "deep" / "report.json", "--json")[1])
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == report
    assert report["cost"]["loglikelihood"]["resumed"] == 0
    again = json.loads(call("--samples", "4", "--output", tmp_path / "deep" / "report.json", "--json")[1])
    assert again["cost"]["loglikelihood"]["resumed"] == 2 and again["results"] == report["results"]
    assert again["nfe"] == report["nfe"]
    other = json.loads(call("--samples", "5", "--output", tmp_path / "deep" / "report.json", "--json")[1])
    assert other["cost"]["loglikelihood"]["resumed"] == 0


@pytest.mark.slow  # it looks through all tasks of lm-eval
def test_an_unknown_task_is_told_the_closest_one(masked_bundle: Path, folder: Path, refused: Refused):
    message = refused("evaluate", masked_bundle, "--tasks", "cats,cat", "--include-path", folder)
    assert message == "unknown task 'cat'; did you mean cats?"


def test_mistakes_are_one_line(call, masked_bundle: Path, refused: Refused, monkeypatch):
    assert "one thing at a time" in refused("evaluate", masked_bundle, "--tasks", "cats", "--data", "a.txt")
    for words in (("--output", "a.json"), ("--chat",), ("--temperature", "0.5"), ("--no-greedy",)):
        flag = words[0].replace("no-", "")
        assert refused("evaluate", masked_bundle, "--data", "a.txt", *words).startswith(f"{flag}: goes with --tasks")
    assert "estimator: 'exact' is not for the masked process" in call("--estimator", "exact")[2]
    assert "has no chat template" in call("--chat")[2]
    for name in [name for name in sys.modules if name.startswith(("lm_eval", "sfumato.evaluate.harness"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sfumato.evaluate.run_tasks")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert "pip install 'sfumato[evaluate]'" in call()[2]
