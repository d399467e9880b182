import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from screen import Screen, in_terminal

import sfumato
from sfumato.cli import generate, main
from sfumato.cli.writing import SETTINGS

PROMPT = "Once upon a"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(masked_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`sfumato generate` with the small model; standard output is no terminal."""

    def called(*words: str, model: Path = masked_bundle) -> Ended:
        code = main(["generate", "--model", str(model), "--device", "cpu", "--dtype", "float32", *words])
        return Ended(code, *capsys.readouterr())

    return called


def test_where_nobody_watches_there_is_only_the_text(call: Callable[..., Ended]):
    ended = call(PROMPT, "--max-tokens", "8")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(PROMPT) and ended.out.endswith("\n") and "\x1b" not in ended.out


def test_forcing_colour_does_not_make_a_pipe_a_terminal(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch):
    plain = call(PROMPT, "--max-tokens", "8")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert call(PROMPT, "--max-tokens", "8") == plain


def test_the_same_seed_writes_the_same_text_and_another_one_another(call: Callable[..., Ended]):
    first, again, other = (call(PROMPT, "--max-tokens", "20", "--seed", seed).out for seed in ("5", "5", "6"))
    assert first == again != other


def test_the_command_writes_what_python_writes(call: Callable[..., Ended], masked_bundle: Path):
    model = sfumato.load(masked_bundle, device="cpu", dtype="float32")
    text = model.generate(PROMPT, max_tokens=12, steps=4, temperature=0.7, sampler="entropy", seed=3).text
    flags = ["--max-tokens", "12", "--steps", "4", "--temperature", "0.7", "--sampler", "entropy", "--seed", "3"]
    assert call(PROMPT, *flags).out == text + "\n"


def test_every_setting_is_a_flag(call: Callable[..., Ended]):
    from dataclasses import fields

    from sfumato.sample.settings import Settings

    chosen = {"sampler": "edit", "top_p": 0.9, "remask": "loop", "choice": "margin", "eta": 0.5, "kappa": 0.5}
    left = {field.name: field.default for field in fields(Settings)} | chosen | {"steps": 3}
    flags = []
    for name, word in ((name, name.replace("_", "-")) for name in SETTINGS):
        value = left[name]
        flags += [f"--{'' if value else 'no-'}{word}"] if isinstance(value, bool) else [f"--{word}", str(value)]
    settings = json.loads(call(PROMPT, "--max-tokens", "4", "--json", *flags).out)["settings"]
    assert {name: settings[name] for name in SETTINGS} == {name: left[name] for name in SETTINGS}
    assert {field.name for field in fields(Settings)} - set(SETTINGS) <= {"seed", "cache", "refresh", "compile"}


def test_a_sampler_from_a_file_is_run_and_a_wrong_one_is_one_line(call: Callable[..., Ended]):
    example = Path(__file__).parents[2] / "examples" / "my_sampler.py"
    ended = call(PROMPT, "--max-tokens", "8", "--sampler", f"{example}:Peaks", "--json")
    assert ended.code == 0 and json.loads(ended.out)["settings"]["sampler"] == f"{example}:Peaks"
    ended = call(PROMPT, "--sampler", f"{example}:Peak")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "no sampler 'Peak' in this file" in ended.err


def test_json_is_all_that_standard_output_holds(call: Callable[..., Ended], masked_bundle: Path):
    ended = call(PROMPT, "--max-tokens", "9", "--top-k", "40", "--seed", "2", "--json")
    record = json.loads(ended.out)
    assert ended.out.count("\n") == 1 and ended.err == ""
    assert record["text"] == PROMPT + record["completion"]
    assert record["finish_reason"] in ("stop", "length")
    assert (record["seed"], record["model"], record["device"], record["dtype"]) == (
        2,
        str(masked_bundle),
        "cpu",
        "float32",
    )
    assert record["stats"]["nfe"] == 5 and record["stats"]["committed"] <= 9
    assert record["stats"]["tpf"] == pytest.approx(record["stats"]["committed"] / record["stats"]["nfe"], abs=1e-3)
    settings = record["settings"]
    assert (settings["max_tokens"], settings["top_k"], settings["seed"]) == (9, 40, 2) and settings["sampler"]


def test_several_texts_have_the_seeds_that_follow(call: Callable[..., Ended]):
    ended = call(PROMPT, "--max-tokens", "20", "--n", "3", "--seed", "4", "--json")
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert [record["seed"] for record in records] == [4, 5, 6]
    assert len({record["text"] for record in records}) == 3
    alone = call(PROMPT, "--max-tokens", "20", "--seed", "5", "--json").out
    assert json.loads(alone)["text"] == records[1]["text"]


def test_several_plain_texts_stand_apart(call: Callable[..., Ended]):
    one, two = (call(PROMPT, "--max-tokens", "9", "--temperature", "0", "--seed", seed).out for seed in ("0", "1"))
    both = call(PROMPT, "--max-tokens", "9", "--temperature", "0", "--n", "2").out
    assert both == f"{one}\n{two}"


@pytest.mark.parametrize("given", [b"Once upon a", b"Once upon a\n", b"\xef\xbb\xbfOnce upon a\r\n"])
def test_a_dash_reads_the_prompt_from_standard_input(
    given: bytes, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    record = json.loads(call("-", "--max-tokens", "4", "--json").out)
    assert record["text"] == "Once upon a" + record["completion"]


def test_a_prompt_may_begin_with_a_dash(call: Callable[..., Ended]):
    ended = call("--max-tokens", "4", "--", "--json")
    assert ended.code == 0 and ended.out.startswith("--json")


def test_any_text_can_be_continued_even_none(call: Callable[..., Ended]):
    for prompt in ("", "从前有 🌻", "Größe\n\n"):
        record = json.loads(call(prompt, "--max-tokens", "4", "--json").out)
        assert record["text"].startswith(prompt)


def test_a_step_writes_two_tokens_unless_told_otherwise(call: Callable[..., Ended]):
    assert json.loads(call(PROMPT, "--max-tokens", "8", "--json").out)["stats"]["nfe"] == 4


def test_an_autoregressive_model_writes_too(call: Callable[..., Ended], autoregressive_bundle: Path):
    words = (PROMPT, "--max-tokens", "6", "--sampler", "left_to_right", "--json")
    record = json.loads(call(*words, model=autoregressive_bundle).out)
    assert record["text"].startswith(PROMPT) and record["stats"]["nfe"] == record["stats"]["committed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler", "margn"], "did you mean margin?"),
        (["--steps", "0"], "steps: expected at least 1, got 0"),
        (["--temperature", "-0.5"], "temperature: expected at least 0"),
        (["--temperature", "warm"], "--temperature: expected a number, got 'warm'"),
        (["--top-p", "0"], "top_p: expected at least"),
        (["--threshold", "2", "--sampler", "threshold"], "threshold: expected"),
        (["--max-tokens", "0"], "--max-tokens: expected at least 1, got '0'"),
        (["--n", "0"], "--n: expected at least 1, got '0'"),
        (["--seed", "-1"], "--seed: expected at least 0, got '-1'"),
        (["--delay", "-1"], "--delay: expected at least 0, got '-1'"),
        (["--device", "gpu"], "--device: expected auto, cpu, cuda or mps, got 'gpu'"),
        (["--temprature", "1"], "unknown flag --temprature; did you mean --temperature?"),
        (["--model", "no/such"], "no/such: no such model"),
        (["another"], "unexpected argument 'another'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], message: str, call: Callable[..., Ended]):
    ended = call(PROMPT, *words)
    assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith("sfumato: ") and message in ended.err


def test_a_prompt_longer_than_the_context_is_one_line(call: Callable[..., Ended]):
    ended = call("a mouse " * 100)
    assert (ended.code, ended.out) == (2, "") and ended.err.count("\n") == 1
    assert ended.err.startswith("sfumato: prompt too long: ") and "context holds 96" in ended.err


@pytest.mark.parametrize(("prompt", "what"), [("a\0b", "NUL"), ("a\ud800b", "U+D800")])
def test_a_prompt_that_is_no_text_is_one_line(prompt: str, what: str, call: Callable[..., Ended]):
    ended = call(prompt)
    assert (ended.code, ended.out) == (2, "") and what in ended.err and ended.err.count("\n") == 1


def test_standard_input_that_is_no_text_is_one_line(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\xff")))
    ended = call("-")
    assert ended.code == 2 and ended.err.startswith("sfumato: standard input: not UTF-8 text") and "byte 3" in ended.err


def test_a_sampler_that_the_model_cannot_use_is_one_line(call: Callable[..., Ended], autoregressive_bundle: Path):
    ended = call(PROMPT, "--sampler", "margin", model=autoregressive_bundle)
    assert ended.code == 2 and "use left_to_right" in ended.err


def test_a_terminal_shows_how_the_text_appears_and_keeps_it_once(
    masked_bundle: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Ended]
):
    words = [PROMPT, "--max-tokens", "24", "--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32"]
    shown = in_terminal(monkeypatch, lambda out: generate.run([*words, "--delay", "0.001"], out))
    assert "░" in shown and "% open" in shown
    screen = Screen(60, 20).feed(shown.replace("\x1b[2K", ""))
    assert screen.cursor_visible and sum(PROMPT in line for line in screen.lines) == 1
    assert "░" not in "".join(screen.lines)
    assert re.match(r"\d+ tokens  \d+ steps  NFE \d+  TPF \d\.\d  \d+ tokens/s", screen.lines[screen.row - 1])


def test_a_terminal_that_cannot_repaint_gets_the_text(masked_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    words = [PROMPT, "--max-tokens", "8", "--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32"]
    shown = in_terminal(monkeypatch, lambda out: generate.run(words, out), TERM="dumb")
    assert shown.startswith(PROMPT) and "\x1b" not in shown and "NFE" not in shown


@pytest.mark.parametrize("flag", ["--no-show", "--json"])
def test_a_terminal_shows_nothing_when_it_is_told_not_to(
    flag: str, masked_bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    words = [PROMPT, "--max-tokens", "8", "--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32", flag]
    shown = in_terminal(monkeypatch, lambda out: generate.run(words, out))
    assert PROMPT in shown and "\x1b" not in shown and "% open" not in shown


def test_text_that_steers_a_terminal_does_not_reach_it(masked_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    words = ["a\x1b[31mb", "--max-tokens", "2", "--model", str(masked_bundle), "--device", "cpu", "--dtype", "float32"]
    assert "\x1b[31m" not in in_terminal(monkeypatch, lambda out: generate.run([*words, "--no-show"], out))
    assert "\x1b[31m" not in in_terminal(monkeypatch, lambda out: generate.run([*words, "--delay", "0"], out))


def test_a_page_holds_every_text_with_its_steps_and_changes_none(call: Callable[..., Ended], tmp_path: Path):
    path, flags = tmp_path / "new" / "page.html", (PROMPT, "--max-tokens", "8", "--n", "2", "--seed", "3")
    plain, with_page = call(*flags), call(*flags, "--html", str(path))
    assert with_page == plain and [file.name for file in path.parent.iterdir()] == ["page.html"]
    traces = json.loads(re.findall(r'id="trace">(.*?)</script>', path.read_text("utf-8"), re.S)[0])["traces"]
    assert [trace["title"] for trace in traces] == ["seed 3", "seed 4"]
    assert [len(trace["steps"]) > 1 for trace in traces] == [True, True]
    assert any(state == 2 for step in traces[0]["steps"] for _, state, *_ in step["changes"])  # a draft was seen


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--html", "page.txt"], "--html: expected a file whose name ends in .html, got 'page.txt'"),
        (["--html", "page.html", "--best-of", "2"], "--html: shows how one text is written"),
    ],
)
def test_a_page_that_cannot_be_made_is_refused(refused: Callable[..., str], masked_bundle: Path, words, says):
    assert refused("generate", PROMPT, "--model", masked_bundle, *words).startswith(says)
