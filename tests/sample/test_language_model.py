"""The front door: load a bundle, generate, infill, and understand what came back."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundles import CONTEXT, END, MASK, PAD, START, make

import sfumato
from sfumato.config import ConfigError
from sfumato.model import bundle
from sfumato.model.bundle import BundleError
from sfumato.sample.guidance import ClassifierFree
from sfumato.sample.language_model import Generation, LanguageModel, Start
from sfumato.sample.settings import Settings
from sfumato.text.tokenizer import Tokenizer

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["Once upon a time there was a little cat."] * 4, 290)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved bundle; do not write into it."""
    path = tmp_path_factory.mktemp("bundle") / "model"
    make(tokenizer).save(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return LanguageModel.load(folder, device="cpu", dtype="float32")


# --- loading


def test_a_folder_is_loaded_by_its_path(model: LanguageModel, folder: Path, tokenizer: Tokenizer):
    assert model.path == folder
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert (model.process.name, model.layout.name) == ("masked", "full")
    assert model.tokenizer.fingerprint == tokenizer.fingerprint
    assert LanguageModel.load(str(folder), "cpu", "bfloat16").dtype == torch.bfloat16


def test_sfumato_load_is_the_same(model: LanguageModel, folder: Path):
    loaded = sfumato.load(folder, device="cpu", dtype="float32")
    assert isinstance(loaded, sfumato.LanguageModel) and sfumato.LanguageModel is LanguageModel
    assert sfumato.Generation is Generation
    texts = [m.generate(PROMPT, max_tokens=8, seed=1).text for m in (model, loaded)]
    assert texts[0] == texts[1]


def test_the_public_names_come_when_they_are_used():
    assert all(hasattr(sfumato, name) for name in sfumato.__all__)
    with pytest.raises(AttributeError, match="^module 'sfumato' has no attribute 'Langage'$"):
        sfumato.Langage  # noqa: B018
    probe = "import sys, sfumato; sfumato.load, sfumato.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.fixture
def bundled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two models, and an empty current folder."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("tiny", "other"):
        (models / name).symlink_to(folder, target_is_directory=True)
    monkeypatch.setattr(bundle, "BUNDLED", models)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return models


def test_models_of_the_package_are_loaded_by_name(bundled: Path):
    assert LanguageModel.load("other", "cpu", "float32").path == bundled / "other"
    assert LanguageModel.load(None, "cpu", "float32").path == bundled / "tiny"


def test_the_default_is_the_packages_model_whatever_lies_around(bundled: Path):
    Path("tiny").mkdir()
    assert LanguageModel.load(device="cpu", dtype="float32").path == bundled / "tiny"


def test_a_folder_here_comes_before_a_name(bundled: Path, folder: Path):
    Path("other").symlink_to(folder, target_is_directory=True)
    assert LanguageModel.load("other", "cpu", "float32").path == Path("other")


@pytest.mark.parametrize("name", ["tinny", "no/such/folder", "file.txt"])
def test_an_unknown_model_lists_the_known_ones_in_one_line(bundled: Path, name: str):
    Path("file.txt").write_text("x")
    with pytest.raises(BundleError, match=f"^{name}: no such model; .* other, tiny$"):
        LanguageModel.load(name)


# --- generating


@pytest.mark.parametrize("max_tokens", [1, 7, 30])
def test_a_generation_is_the_prompt_and_its_completion(model: LanguageModel, tokenizer: Tokenizer, max_tokens: int):
    given = [START, *tokenizer.encode(PROMPT)]
    for seed in range(3):
        done = model.generate(PROMPT, max_tokens=max_tokens, seed=seed)
        assert done.tokens[: len(given)] == tuple(given) and len(done.tokens) == len(given) + max_tokens
        assert not {MASK, PAD, START} & set(done.tokens[len(given) :])
        assert done.text == PROMPT + done.completion
        written = done.tokens[len(given) :]
        assert done.completion == tokenizer.decode(written[: written.index(END)] if END in written else written)
        assert done.seed == done.settings.seed == seed


def test_an_empty_prompt_is_a_prompt(model: LanguageModel):
    done = model.generate("", max_tokens=5)
    assert done.text == done.completion and done.tokens[0] == START


def test_equal_seeds_write_equal_texts(model: LanguageModel):
    texts = [model.generate(PROMPT, max_tokens=16, seed=seed).text for seed in (3, 4, 3)]
    assert texts[0] == texts[2] != texts[1]
    first, again = model.generate(PROMPT, max_tokens=16), model.generate(PROMPT, max_tokens=16, seed=0)
    assert replace(again, stats=first.stats) == first


def test_a_batch_is_one_text_after_the_other_with_the_next_seeds(model: LanguageModel):
    prompts = [PROMPT, "A cat", "", PROMPT]
    batch = model.generate(prompts, max_tokens=12, seed=20)
    assert isinstance(batch, list) and [done.seed for done in batch] == [20, 21, 22, 23]
    for i, (prompt, done) in enumerate(zip(prompts, batch, strict=True)):
        alone = model.generate(prompt, max_tokens=12, seed=20 + i)
        assert (done.text, done.tokens, done.finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
        assert (done.stats.nfe, done.stats.committed) == (alone.stats.nfe, alone.stats.committed)
    assert batch[0].text != batch[3].text


def test_a_list_of_one_is_a_list_and_of_none_is_none(model: LanguageModel):
    assert [done.text for done in model.generate((PROMPT,), max_tokens=4)] == [
        model.generate(PROMPT, max_tokens=4).text
    ]
    assert model.generate([], max_tokens=4) == []


def test_after_the_largest_seed_comes_0(model: LanguageModel):
    largest = 2**63 - 1
    batch = model.generate([PROMPT, PROMPT], max_tokens=6, seed=largest)
    assert [done.seed for done in batch] == [largest, 0]
    assert batch[1].text == model.generate(PROMPT, max_tokens=6, seed=0).text


def test_settings_come_from_the_bundle_and_then_from_the_caller(model: LanguageModel):
    done = model.generate(PROMPT, max_tokens=8)
    assert done.settings == Settings(sampler="margin", temperature=0.9)
    done = model.generate(PROMPT, max_tokens=8, sampler="ancestral", temperature=None, steps=3, top_k=5)
    assert done.settings == Settings(sampler="ancestral", temperature=0.9, steps=3, top_k=5)
    cold = [model.generate(PROMPT, max_tokens=8, temperature=0.0, seed=seed).text for seed in range(3)]
    assert len(set(cold)) == 1


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        ({}, 8),  # one step for two tokens
        ({"steps": 5}, 5),
        ({"steps": 100}, 15),
        ({"sampler": "left_to_right"}, 15),
        ({"sampler": "left_to_right", "steps": 3}, 15),
        ({"block": 1}, 15),  # a block needs a step
        ({"block": 4}, 8),
        ({"block": 4, "steps": 4}, 4),
    ],
)
def test_the_number_of_forwards(model: LanguageModel, options: dict, nfe: int):
    # A closed template, so that no end of the text saves any.
    done = model.infill("a{15}b", **options)
    assert done.stats.nfe == nfe and done.stats.committed == 16 - 1
    assert done.stats.tpf == round(15 / nfe, 3)
    assert done.stats.positions_evaluated == nfe * len(done.tokens)
    assert done.stats.seconds > 0 and done.stats.tokens_per_second > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate(PROMPT, stpes=3), "unknown key stpes; did you mean steps?"),
        (lambda m: m.generate(PROMPT, sampler="margn"), "did you mean margin?"),
        (lambda m: m.generate(PROMPT, max_tokens=0), "max_tokens must be at least 1, got 0"),
        (lambda m: m.generate("long " * 50, max_tokens=5), f"but the context holds {CONTEXT}"),
        (lambda m: m.generate(PROMPT, max_tokens=12, block=4, steps=2), "steps: got 2, expected at least 3"),
        (lambda m: m.generate("a\0b"), "NUL"),
        (lambda m: m.infill("no hole"), "template has no hole"),
        (lambda m: m.infill("a {x} b"), "template, column 3"),
        (lambda m: m.infill(None), "template: expected a text or a list of texts, got NoneType"),
        (lambda m: m.infill(["a {2} b", 3]), "template: expected text, got int"),
        (lambda m: m.generate(PROMPT, threshold=0, sampler="threshold"), "threshold: "),
    ],
)
def test_mistakes_are_one_line(model: LanguageModel, call, message: str):
    with pytest.raises(ValueError) as raised:
        call(model)
    assert message in str(raised.value) and "\n" not in str(raised.value)


# --- the end of the text


def test_the_end_of_the_text_cuts_it(tokenizer: Tokenizer):
    # Nearly half of all tokens end the text.
    model = LanguageModel(make(tokenizer, end=5.5))
    reasons = set()
    for seed in range(12):
        done = model.generate(PROMPT, max_tokens=6, seed=seed, sampler="left_to_right", temperature=1.0)
        written = done.tokens[1 + len(tokenizer.encode(PROMPT)) :]
        reasons.add(done.finish_reason)
        if done.finish_reason == "stop":
            last = written.index(END)
            assert set(written[last:]) == {END}
            assert done.completion == tokenizer.decode(written[:last])
            assert done.stats.committed == last + 1 == done.stats.nfe
        else:
            assert done.finish_reason == "length" and END not in written
            assert done.stats.committed == 6
        assert done.text == PROMPT + done.completion
        assert done.stats.tpf == round(done.stats.committed / done.stats.nfe, 3)
    assert reasons == {"stop", "length"}


def test_an_empty_completion_is_a_completion(tokenizer: Tokenizer):
    done = LanguageModel(make(tokenizer, end=100.0)).generate(PROMPT, max_tokens=20, temperature=0.0)
    assert (done.text, done.completion, done.finish_reason) == (PROMPT, "", "stop")
    assert done.stats.committed == 1 and done.stats.nfe == 1


# --- infilling


def test_infilling_keeps_the_given_text(model: LanguageModel, tokenizer: Tokenizer):
    for seed in range(3):
        done = model.infill("Once {6} there was {3} cat.", seed=seed)
        given = [tokenizer.encode(piece) for piece in ("Once ", " there was ", " cat.")]
        expected = [START, *given[0], *[None] * 6, *given[1], *[None] * 3, *given[2], END]
        assert len(done.tokens) == len(expected)
        assert all(want in (None, token) for want, token in zip(expected, done.tokens, strict=True))
        assert END not in done.tokens[:-1]
        assert done.text == "Once " + done.completion
        assert done.text.startswith("Once ") and done.text.endswith(" cat.") and " there was " in done.text


def test_templates_are_filled_together_as_alone(model: LanguageModel):
    templates = ["Once {6} there was {3} cat.", "{2}", "a little {*}"]
    together = model.infill(templates, max_tokens=7, seed=4)
    alone = [model.infill(template, max_tokens=7, seed=4 + i) for i, template in enumerate(templates)]
    assert [(done.text, done.tokens, done.seed) for done in together] == [
        (done.text, done.tokens, done.seed) for done in alone
    ]
    assert model.infill([]) == [] and len(model.infill(templates[:1])) == 1


def test_infilling_with_an_open_end_is_generation_after_the_last_piece(model: LanguageModel):
    filled, written = model.infill(PROMPT + "{*}", max_tokens=9, seed=2), model.generate(PROMPT, max_tokens=9, seed=2)
    assert (filled.text, filled.tokens, filled.completion) == (written.text, written.tokens, written.completion)


def test_the_text_of_a_special_token_is_text(model: LanguageModel):
    done = model.generate("<|mask|><|end|>", max_tokens=4)
    assert done.text.startswith("<|mask|><|end|>") and done.tokens[1:].count(MASK) == 0


# --- autoregression


def test_the_autoregressive_twin_is_used_in_the_same_way(tokenizer: Tokenizer, tmp_path: Path):
    make(tokenizer, "autoregressive").save(tmp_path / "ar")
    model = LanguageModel.load(tmp_path / "ar", "cpu", "float32")
    done = model.generate([PROMPT, "A"], max_tokens=5, seed=1)
    assert [one.settings.sampler for one in done] == ["left_to_right"] * 2
    assert done[0].text.startswith(PROMPT) and done[1].text.startswith("A")
    assert done[1].tokens == model.generate("A", max_tokens=5, seed=2).tokens
    alone = model.generate(PROMPT, max_tokens=5, seed=1)
    prefix = 1 + len(tokenizer.encode(PROMPT))
    assert alone.stats.positions_evaluated == prefix + alone.stats.nfe - 1  # each token once


def test_the_autoregressive_twin_refuses_other_orders(tokenizer: Tokenizer):
    model = LanguageModel(make(tokenizer, "autoregressive"))
    with pytest.raises(ConfigError, match="^sampler: 'margin' does not make sense .* use left_to_right$"):
        model.generate(PROMPT, sampler="margin")


# --- watching


def test_watchers_hear_the_start_and_every_step_and_change_nothing(model: LanguageModel):
    starts: list[Start] = []
    events = []
    watched = model.generate([PROMPT, "A"], max_tokens=10, seed=4, on_start=starts.append, on_event=events.append)
    assert [done.text for done in watched] == [
        done.text for done in model.generate([PROMPT, "A"], max_tokens=10, seed=4)
    ]
    assert [start.request for start in starts] == [0, 1]
    for start, done in zip(starts, watched, strict=True):
        mine = [event for event in events if event.request == start.request]
        assert len(start.tokens) == len(start.editable) == len(done.tokens)
        assert [event.done for event in mine] == [False] * (len(mine) - 1) + [True]
        assert mine[-1].tokens == done.tokens and mine[-1].nfe == done.stats.nfe
        row = list(start.tokens)
        for event in mine:
            for commit in event.commits:
                assert start.editable[commit.position] and row[commit.position] == MASK
                row[commit.position] = commit.token
        assert all(token == END if row[i] == MASK else token == row[i] for i, token in enumerate(done.tokens))


def test_a_watcher_that_fails_is_heard(model: LanguageModel):
    def fail(event):
        raise RuntimeError("watcher")

    with pytest.raises(RuntimeError, match="watcher"):
        model.generate(PROMPT, max_tokens=4, on_event=fail)


# --- control


def test_a_length_is_met_exactly(model: LanguageModel):
    for length in (1, 7, 20):
        for seed in range(4):
            found = model.generate(PROMPT + " {x}", length=length, seed=seed)
            prompt = len(model.tokenizer.encode(PROMPT + " {x}")) + 1
            assert len(found.tokens) == prompt + length + 1 and found.tokens[-1] == END
            assert END not in found.tokens[:-1] and found.finish_reason == "stop"
            assert found.text.startswith(PROMPT + " {x}") and found.completion == found.text[len(PROMPT) + 4 :]


@pytest.mark.parametrize("length", [0, -1, 2.0, True, CONTEXT])
def test_a_length_that_cannot_be_met_is_refused(model: LanguageModel, length):
    with pytest.raises(ValueError, match=r"length|too long"):
        model.generate(PROMPT, length=length)


def test_guidance_is_one_several_or_a_scale(model: LanguageModel):
    one = ClassifierFree(1.5)
    texts = [model.generate(PROMPT, max_tokens=12, guidance=g).text for g in (1.5, one, [one], (one,))]
    assert len(set(texts)) == 1
    plain = model.generate(PROMPT, max_tokens=12)
    guided = model.generate(PROMPT, max_tokens=12, guidance=1.5)
    assert guided.stats.nfe == 2 * plain.stats.nfe
    assert model.generate(PROMPT, max_tokens=12, guidance=0).text == plain.text


@pytest.mark.parametrize("options", [{"guidance": 1.0}, {"keywords": ["cat"]}])
def test_control_works_on_one_window(model: LanguageModel, options: dict):
    with pytest.raises(ValueError, match=f"one window of {CONTEXT} tokens"):
        model.generate(PROMPT, max_tokens=CONTEXT, **options)
