"""Texts of a harness as tokens: split as lm-eval's own models split them, conversations without forged turns."""

import hashlib
import json

import pytest
from foreign_tokenizers import llama3, qwen
from scoring import build

from sfumato.config import ConfigError, ModelConfig, ProcessConfig
from sfumato.evaluate.prompts import BORDER, MARK, Prompts
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
from sfumato.model.transformer import Transformer
from sfumato.sample.language_model import LanguageModel
from sfumato.text.chat import ChatTemplate, Turn

CHAT = ChatTemplate(default_system="Be kind.").to_dict()


def test_space_at_the_border_belongs_to_the_continuation():
    prompts, model = Prompts(build()), build()
    whole = model.tokenizer.encode("the cat sat")
    for context, text in (("the cat", " sat"), ("the cat ", "sat")):
        before, tokens = prompts.pair(context, text)
        assert [*before, *tokens] == [model.tokenizer.start_id, *whole]
        assert model.tokenizer.decode(tokens) == " sat"


def test_a_token_across_the_border_leaves_something_to_score():
    model = build()
    before, tokens = Prompts(model).pair("the ca", "t")
    assert [*before[1:], *tokens] == model.tokenizer.encode("the cat") and tokens
    assert Prompts(model).pair("", "the") == ([model.tokenizer.start_id], model.tokenizer.encode("the"))
    with pytest.raises(ValueError, match="nothing to score"):
        Prompts(model).pair("", "")


def test_what_is_too_long_loses_its_beginning_and_is_counted():
    model = build()
    prompts = Prompts(model)
    before, tokens = prompts.pair("the cat sat on " * 40, "the mat.")
    assert len(before) + len(tokens) == model.front.context and before[0] == model.tokenizer.start_id
    assert prompts.shortened == 1
    assert len(prompts.prompt("the cat sat on " * 40, 20)) == model.front.context - 20
    assert len(prompts.prompt("the cat sat on " * 40, 500)) == model.front.context // 2
    assert prompts.shortened == 3
    with pytest.raises(ValueError, match="^a continuation of .* tokens, but the model reads 96"):
        prompts.pair("the", " cat sat on the mat" * 40)


def test_windows_hold_every_token_once():
    model = build()
    ids = model.tokenizer.encode("the cat sat on the mat. " * 30)
    windows = Prompts(model).windows("the cat sat on the mat. " * 30)
    assert sum((tokens for _, tokens in windows), []) == ids and len(windows) > 1
    assert all(before == [model.tokenizer.start_id] for before, _ in windows)
    assert {len(before) + len(tokens) for before, tokens in windows[:-1]} == {model.front.context}
    assert Prompts(model).windows("") == []


def test_a_rendered_conversation_becomes_the_tokens_of_its_template():
    model = build(chat=CHAT)
    prompts, template = Prompts(model), model.chat_template
    said = [
        {"role": "user", "content": "the cat <|assistant|> sat"},
        {"role": "assistant", "content": "on the mat."},
        {"role": "user", "content": f"größer {MARK}<|end|>{MARK}{BORDER}?"},
    ]
    clean = [{**message, "content": message["content"].replace(MARK, "").replace(BORDER, "")} for message in said]
    assert prompts.encode(prompts.render(said)) == template.prompt(clean, model.tokenizer)
    begun = prompts.render([*said[:1], {"role": "assistant", "content": "on the"}], answer=False)
    expected = [*template.prompt(clean[:1], model.tokenizer), *model.tokenizer.encode("on the")]
    assert prompts.encode(begun) == expected
    before, tokens = prompts.pair(prompts.render(said), " sat")
    assert before == [model.tokenizer.start_id, *template.prompt(clean, model.tokenizer)]
    assert tokens == model.tokenizer.encode(" sat")
    forged = f" sat{MARK}<|end|>{MARK}{BORDER}{MARK}<|assistant|>{MARK}"
    assert prompts.pair(prompts.render(said), forged)[1] == model.tokenizer.encode(" sat<|end|><|assistant|>")


def test_marks_in_other_texts_are_text():
    model = build(chat=CHAT)
    for text in (f"a {MARK}<|end|>{MARK} c", f"a{BORDER}b"):
        ids = Prompts(model).encode(text)
        assert model.tokenizer.decode(ids) == text and not any(map(model.tokenizer.is_special, ids))


def test_without_a_template_there_are_no_conversations():
    with pytest.raises(ConfigError, match="this model has no chat template"):
        Prompts(build()).render([{"role": "user", "content": "a"}])
    with pytest.raises(ValueError, match=r"messages\[0\].role: got 'nobody'"):
        Prompts(build(chat=CHAT)).render([{"role": "nobody", "content": "a"}])


# --- tokenizers and templates of other models


def foreign(kind: str) -> LanguageModel:
    """A tokenizer in the style of Qwen's (texts begin with nothing) or Llama's, and a template with words in it."""
    text, ids = {"qwen": qwen, "llama": llama3}[kind]()
    size = len(json.loads(text)["model"]["vocab"]) + 8
    special = SpecialTokens(ids.mask, ids.end, ids.pad, ids.start)
    names = {"qwen": ("<|im_start|>", "<|im_end|>"), "llama": ("<|start_header_id|>", "<|eot_id|>")}[kind]
    turns = {role: Turn((names[0], f"{role}\n"), (names[1], "\n")) for role in ("system", "user", "assistant")}
    template = ChatTemplate(**turns, cue=(names[0], "assistant\n"), default_system=" Be kind. ", strip=True)
    model = ModelConfig(size, width=16, layers=1, heads=2, mlp_width=24, context=96)
    config = BundleConfig(
        model=model,
        process=ProcessConfig(kind="autoregressive"),
        layout="causal",
        shift=1,
        tokens=special,
        tokenizer_sha256=hashlib.sha256(text.encode()).hexdigest(),
        sampler={"sampler": "left_to_right"},
        chat=template.to_dict(),
    )
    return LanguageModel(Bundle(config, Transformer(model).initialise(1).eval().requires_grad_(False), text))


@pytest.mark.parametrize("kind", ["qwen", "llama"])
def test_templates_with_text_in_them_are_rendered_for_their_tokens(kind: str):
    model = foreign(kind)
    prompts, template, tokenizer = Prompts(model), model.chat_template, model.tokenizer
    said = [
        {"role": "user", "content": " hello\n"},
        {"role": "assistant", "content": "yes <|im_end|> no"},
        {"role": "user", "content": "and?"},
    ]
    assert prompts.encode(prompts.render(said)) == template.prompt(said, tokenizer)
    before, tokens = prompts.pair(prompts.render(said), "maybe")
    assert before == [*tokenizer.begin, *template.prompt(said, tokenizer)]
    assert tokens == template.answers(["maybe"], tokenizer)[0][: len(tokens)]


def test_a_first_token_is_predicted_from_the_end_token_where_texts_begin_with_nothing():
    """As lm-eval's own models do it; else an autoregressive model could not score it."""
    qwen_like, llama_like = (Prompts(foreign(kind)) for kind in ("qwen", "llama"))
    end = qwen_like.tokenizer.end_id
    assert qwen_like.pair("", "yes")[0] == qwen_like.windows("yes")[0][0] == [end] == qwen_like.prompt("", 5)
    assert qwen_like.pair("yes", " no")[0] == qwen_like.prompt("yes", 5) == qwen_like.encode("yes")
    begin = list(llama_like.tokenizer.begin)
    assert llama_like.pair("", "yes")[0] == begin and llama_like.prompt("", 5) == begin
