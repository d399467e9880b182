"""Training that starts from a model whose tokenizer is not ours: on text, on conversations, on preferences."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from foreign_models import tiny_bundle
from foreign_tokenizers import SENTENCES, bert, llama2, llama3, qwen, xlmr

from sfumato.config import DataConfig, ModelConfig, ProcessConfig, Recipe, Source, TrainConfig
from sfumato.data.batches import Stream
from sfumato.data.sources import DataError
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import ChatTemplate, Turn
from sfumato.text.tokenizer import read_tokenizer
from sfumato.train.denoising import denoising
from sfumato.train.loop import train
from sfumato.tune.answers import prepare
from sfumato.tune.methods import tune

CHATML = ChatTemplate(
    system=Turn(("<|im_start|>", "system\n"), ("<|im_end|>", "\n")),
    user=Turn(("<|im_start|>", "user\n"), ("<|im_end|>", "\n")),
    assistant=Turn(("<|im_start|>", "assistant\n"), ("<|im_end|>", "\n")),
    cue=("<|im_start|>", "assistant\n"),
    default_system="You are late.",
)
ANSWERS = {"The cat?": "on the mat.", "Hello!": "yes", "The mat?": "no"}
KINDS = {"qwen": qwen, "llama3": llama3, "bert": bert, "xlmr": xlmr, "llama2": llama2}


@pytest.fixture
def base(tmp_path: Path) -> Callable[..., str]:
    """`base("qwen", chat=..., shift=1, process="autoregressive")`: the folder of a tiny random model."""

    def make(kind: str, **others: object) -> str:
        folder = tmp_path / f"base-{kind}"
        tiny_bundle(*KINDS[kind](), **others).save(folder)  # pyrefly: ignore[bad-argument-type]
        return str(folder)

    return make


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}
        for asked, told in ANSWERS.items()
    ]
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines * 8))
    return file


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    file = tmp_path / "plain.txt"
    file.write_text("\n\n".join(SENTENCES))
    return file


def recipe(
    init: str, data: Path, tmp_path: Path, *, process: str = "masked", method: str = "answers", **others: object
) -> Recipe:
    model = Bundle.load(Path(init)).config.model
    return Recipe(
        name="small",
        method=method,
        init=init,
        model=ModelConfig() if method == "preference" else replace(model, vocab_size=0, context=64),
        process=ProcessConfig(process),
        data=DataConfig((Source(str(data)),), held_out=0.1, cache=str(tmp_path / "cache")),
        train=TrainConfig(steps=2, batch=4, warmup=1, dtype="float32", device="cpu"),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_learned_and_written_on(kind: str, base: Callable[..., str], plain: Path, tmp_path: Path):
    folder, _ = train(recipe(base(kind), plain, tmp_path), tmp_path / "run")
    assert folder is not None
    model = LanguageModel.load(folder)
    assert model.tokenizer.to_json() == KINDS[kind]()[0]
    assert model.bundle.config.tokens == Bundle.load(tmp_path / f"base-{kind}").config.tokens
    assert model.generate("the cat", max_tokens=5).text.startswith("the cat")


def test_rows_begin_with_nothing_where_texts_do(base: Callable[..., str], plain: Path, tmp_path: Path):
    wanted = recipe(base("qwen", shift=1), plain, tmp_path)
    tokenizer = read_tokenizer(*qwen(), vocab_size=Bundle.load(Path(wanted.init)).config.model.vocab_size)
    run = denoising(wanted, tokenizer, 2, None)
    stream = run.state.stream
    assert run.config.shift == 1 and run.config.tokens.start is None and isinstance(stream, Stream)
    batch = stream.rows(4)
    assert bool((batch.editable_BL == (batch.position_BL >= 0)).all())
    text = tokenizer.decode(batch.tokens_BL[0][batch.document_BL[0] == 0].tolist())
    assert text and text in plain.read_text()
    assert run.step()["loss"] > 0


@pytest.mark.parametrize("process", ["masked", "autoregressive"])
def test_conversations_are_rows_of_the_models_own_template(
    base: Callable[..., str], talk: Path, tmp_path: Path, process: str
):
    wanted = recipe(base("qwen", chat=CHATML.to_dict(), process=process), talk, tmp_path, process=process)
    tokenizer = read_tokenizer(*qwen(), vocab_size=Bundle.load(Path(wanted.init)).config.model.vocab_size)
    run = prepare(wanted, tokenizer, 2, None)
    assert run.config.chat == CHATML.to_dict()
    (corpus,) = run.corpora
    for i in corpus.train[:6]:
        tokens = corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]].tolist()
        prompt, answer = tokens[: corpus.prompts[i]], tokens[corpus.prompts[i] :]
        asked = next(one for one in ANSWERS if one in tokenizer.decode(prompt))
        assert prompt == CHATML.prompt([{"role": "user", "content": asked}], tokenizer)
        assert tokenizer.decode(answer) == ANSWERS[asked]
        first = answer.index(tokenizer.end_id)
        assert answer[first - 1] == tokenizer.special_id("<|im_end|>") and set(answer[first:]) == {tokenizer.end_id}
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    found = LanguageModel.load(folder).reply([{"role": "user", "content": "The cat?"}], max_tokens=6)
    assert len(found.tokens) > 6 and "user" not in found.completion


def test_a_model_without_a_template_learns_roles_in_plain_words(base: Callable[..., str], talk: Path, tmp_path: Path):
    folder, _ = tune(recipe(base("llama2"), talk, tmp_path, method="answers"), tmp_path / "run")
    assert folder is not None
    model = LanguageModel.load(folder)
    assert model.chat_template is not None and model.chat_template.cue == ("Assistant:\n",)
    assert model.chat_template.assistant.after[0] == "</s>"
    row, _ = model.front.conversation([{"role": "user", "content": "Hello!"}], 4)
    assert model.tokenizer.decode(row.tokens) == "User:\nHello!\n\nAssistant:\n"
    assert model.reply([{"role": "user", "content": "Hello!"}], max_tokens=4).finish_reason in ("stop", "length")


def test_conversations_as_plain_text_are_refused_where_roles_have_no_tokens(
    base: Callable[..., str], talk: Path, tmp_path: Path
):
    with pytest.raises(DataError, match="no tokens for their roles; train on plain text, or tune with the method answ"):
        train(recipe(base("qwen"), talk, tmp_path), tmp_path / "run")


@pytest.mark.parametrize("chat", [None, CHATML.to_dict()], ids=["text", "chat"])
def test_preferences(base: Callable[..., str], tmp_path: Path, chat: dict | None):
    lines = [{"prompt": asked, "chosen": told, "rejected": "maybe"} for asked, told in ANSWERS.items()]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines * 3))
    wanted = recipe(base("qwen", chat=chat, shift=1), file, tmp_path, method="preference")
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None and Bundle.load(folder).config.chat == (chat and json.loads(json.dumps(chat)))


def test_an_autoregressive_model_becomes_a_masked_one(base: Callable[..., str], plain: Path, tmp_path: Path):
    wanted = recipe(base("qwen", process="autoregressive"), plain, tmp_path, method="adapt")
    folder, _ = tune(wanted, tmp_path / "run")
    assert folder is not None
    model = LanguageModel.load(folder)
    assert model.bundle.config.shift == 1 and model.process.name == "masked"
    assert model.generate("", max_tokens=5).tokens.count(model.tokenizer.mask_id) == 0
