"""A file of prompts: the same texts however often it is stopped, whatever the batch; bad lines are named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import make

from sfumato.sample.bulk import Summary, write_file
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer

LINES = [
    {"prompt": "Once upon", "id": 7, "metadata": {"of": "us"}},
    {"template": "It {3} on the {2}.", "seed": 17},
    {"messages": [{"role": "user", "content": "größer?"}], "max_tokens": 6},
    {"prompt": "a cat", "sampler": "confidence", "steps": 3, "stop": ["a", "o"]},
    *({"prompt": f"cat {i}", "max_tokens": 4 + i % 5} for i in range(8)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bulk") / "model"
    tokenizer = Tokenizer.train(["Once upon a time there was a little cat. It sat on the mat. größer " * 3], 290)
    make(tokenizer, chat=ChatTemplate().to_dict()).save(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return LanguageModel.load(folder, "cpu", "float32")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps(line, ensure_ascii=bool(i % 2)) + "\n" for i, line in enumerate(LINES)]
    path.write_text("\n".join(lines), encoding="utf-8")  # with blank lines between
    return path


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_line_is_answered_in_its_place(model: LanguageModel, source: Path, tmp_path: Path):
    seen = []
    out = tmp_path / "out.jsonl"
    summary = write_file(model, source, out, batch=3, max_tokens=8, seed=5, progress=lambda *now: seen.append(now))
    found = records(out)
    requests = [{k: v for k, v in line.items() if k not in ("id", "metadata")} for line in LINES]
    expected = list(model.generate_many(requests, max_tokens=8, seed=5))
    for line, record, generation in zip(LINES, found, expected, strict=True):
        assert record | line == record | {"seed": generation.seed} | line
        assert (record["text"], record["completion"]) == (generation.text, generation.completion)
        assert (record["finish_reason"], record["nfe"]) == (generation.finish_reason, generation.stats.nfe)
        assert record["tokens"] == generation.stats.committed
    tokens = sum(record["tokens"] for record in found)
    assert [now[:2] for now in seen] == [(i + 1, len(LINES)) for i in range(len(LINES))] and seen[-1][2] == tokens
    assert isinstance(summary, Summary)
    assert (summary.lines, summary.resumed, summary.errors, summary.tokens) == (len(LINES), 0, 0, tokens)
    assert summary.nfe == sum(record["nfe"] for record in found) / len(found)


def test_cut_off_anywhere_it_goes_on_to_the_same_file(model: LanguageModel, source: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    write_file(model, source, out, batch=4, max_tokens=8)
    whole = out.read_bytes()
    for size in range(0, len(whole) + 1, 487):
        out.write_bytes(whole[:size])
        summary = write_file(model, source, out, batch=1 + size % 5, max_tokens=8)
        assert out.read_bytes() == whole and summary.resumed == whole[:size].count(b"\n")
    assert write_file(model, source, out, max_tokens=8).tokens == 0


def test_a_killed_process_is_gone_on_with(model: LanguageModel, folder: Path, tmp_path: Path):
    source, out, other = tmp_path / "prompts.txt", tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    source.write_text("".join(f"cat {i}\n" for i in range(60)), encoding="utf-8")
    child = (
        "import sys, sfumato; from sfumato.sample.bulk import write_file;"
        "write_file(sfumato.load(sys.argv[1], 'cpu', 'float32'), *sys.argv[2:], batch=3, max_tokens=48)"
    )
    process = subprocess.Popen([sys.executable, "-c", child, str(folder), str(source), str(out)])
    while process.poll() is None and (not out.exists() or out.stat().st_size < 500):
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = out.read_bytes()
    assert 0 < before.count(b"\n") < 60
    assert write_file(model, source, out, batch=5, max_tokens=48).resumed == before.count(b"\n")
    write_file(model, source, other, max_tokens=48)
    assert out.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("change", ["model", "prompt", "settings", "shorter", "about"])
def test_an_output_of_another_run_is_refused(model: LanguageModel, source: Path, tmp_path: Path, change: str):
    out, settings, about = tmp_path / "out.jsonl", {"max_tokens": 8}, ""
    write_file(model, source, out, **settings)
    before = out.read_bytes()
    if change == "model":
        bundle = make(Tokenizer.from_json(model.bundle.tokenizer_json), chat=model.bundle.config.chat)
        model = LanguageModel(bundle)
    elif change == "prompt":
        source.write_text(source.read_text().replace("a cat", "a dog"))
    elif change == "settings":
        settings["temperature"] = 0.1
    elif change == "about":
        about = "guided"
    else:
        source.write_text(json.dumps(LINES[0]) + "\n")
    expected = r"out\.jsonl:\d+: not what this run would write for .*; name another output, or remove this one"
    with pytest.raises(ValueError, match=expected):
        write_file(model, source, out, about=about, **settings)
    assert out.read_bytes() == before


BAD = [
    (b'{"promt": "a"}', "unknown key 'promt'; did you mean prompt?"),
    (b'{"prompt": "a"', "not valid JSON (Expecting ',' delimiter, column 15)"),
    (b"[1]", 'expected an object such as {"prompt": "..."}, got [1]'),
    (b'{"prompt": "\xff"}', "not UTF-8 text (invalid start byte at byte 12)"),
    (b'{"template": "no hole"}', "template has no hole to write in"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[message[:12] for _, message in BAD])
def test_a_bad_line_is_named_before_anything_is_written(
    model: LanguageModel, tmp_path: Path, line: bytes, message: str
):
    source, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"prompt": "cat"}\n\n' + line + b"\n")
    with pytest.raises(ValueError) as refused:
        write_file(model, source, out, max_tokens=4)
    assert str(refused.value).startswith(f"{source}:3: {message}") and not out.exists()


def test_bad_lines_can_be_skipped_and_keep_their_places(model: LanguageModel, tmp_path: Path):
    source, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    good = [b'{"prompt": "cat %d", "id": %d}' % (i, i) for i in range(3)]
    bad = [line for line, _ in BAD]
    lines = [bad[0], bad[1], good[0], bad[2], good[1], good[2], bad[3], bad[4]]
    source.write_bytes(b"\n".join(lines))
    summary = write_file(model, source, out, max_tokens=4, on_error="skip", batch=2)
    found = records(out)
    assert ["error" in record for record in found] == [line in bad for line in lines]
    assert found[0]["promt"] == "a" and found[0]["error"] == BAD[0][1]
    assert [record.get("seed") for record in found] == [None, None, 2, None, 4, 5, None, None]
    assert (summary.lines, summary.errors) == (8, 5)
    whole = out.read_bytes()
    for lines_kept in (0, 1, 3, 5, 7):
        out.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines_kept]))
        assert write_file(model, source, out, max_tokens=4, on_error="skip").errors == 5
        assert out.read_bytes() == whole


def test_a_text_file_has_a_prompt_a_line(model: LanguageModel, tmp_path: Path):
    source, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    source.write_bytes("\ufeffcat {3}\r\n\r\n größer ".encode())
    write_file(model, source, out, max_tokens=4)
    assert [record["prompt"] for record in records(out)] == ["cat {3}", " größer "]


def test_what_cannot_be_is_refused(model: LanguageModel, tmp_path: Path):
    source = tmp_path / "prompts.jsonl"
    with pytest.raises(FileNotFoundError):
        write_file(model, source, tmp_path / "out.jsonl")
    source.write_text("\n")
    with pytest.raises(ValueError, match="no prompts in it"):
        write_file(model, source, tmp_path / "out.jsonl")
    source.write_text('{"prompt": "a"}')
    with pytest.raises(ValueError, match="the same file"):
        write_file(model, source, source)
    with pytest.raises(ValueError, match="on_error: expected stop or skip"):
        write_file(model, source, tmp_path / "out.jsonl", on_error="ignore")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "[" * 100000])
def test_what_the_output_could_not_hold_is_refused_before_anything_is_written(model, tmp_path: Path, number: str):
    source = tmp_path / "prompts.jsonl"
    source.write_text(f'{{"prompt": "a cat"}}\n{{"prompt": "a", "metadata": {number}}}\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: not valid JSON"):
        write_file(model, source, tmp_path / "out.jsonl", max_tokens=4)
    assert not (tmp_path / "out.jsonl").exists()
    assert write_file(model, source, tmp_path / "out.jsonl", max_tokens=4, on_error="skip").errors == 1


def test_a_pipe_is_refused_for_it_can_be_read_only_once(model, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: expected a file, which is read twice"):
        write_file(model, tmp_path / "pipe", tmp_path / "out.jsonl")
