"""Chat templates of public models as data: the same ids as the library's own rendering, or a refusal in one line."""

import json
import sys
from pathlib import Path

import pytest
from foreign_tokenizers import llama2, llama3, qwen
from tokenizers import Tokenizer

from sfumato.model.hub import template
from sfumato.model.hub.template import TemplateError, chat_of, read_template
from sfumato.model.hub.vocabulary import read_vocabulary
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import read_tokenizer

HEADER = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
CHATML = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
CUE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
LLAMA3 = (
    "{% for message in messages %}"
    f"{{% set content = {HEADER} + message['content'] | trim + '<|eot_id|>' %}}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
DATED = (
    "{{- bos_token }}{%- set date = strftime_now('%d %b %Y') %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date + '\n\n' + system + '<|eot_id|>' }}"
    f"{{%- for message in messages %}}{{{{- {HEADER} + message['content'] | trim + '<|eot_id|>' }}}}{{%- endfor %}}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
QWEN = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role != 'system' %}
        {{- raise_exception('no such role: ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
THINKS = (
    f"{{% for message in messages %}}{{% if message.role == 'assistant' and loop.last %}}"
    "{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content + '<|im_end|>\\n' }}"
    f"{{% else %}}{CHATML}{{% endif %}}{{% endfor %}}{CUE}"
)
SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    f"{CHATML}{{% endfor %}}{CUE}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GENERATION = (
    f"{{% for message in messages %}}{{% generation %}}{CHATML}{{% endgeneration %}}"
    f"{{% if loop.length > 99 %}}{{% break %}}{{% endif %}}{{% endfor %}}{CUE}"
)
FOLDERS = {
    "llada": (llama3, LLAMA3, False),  # nothing opens a text, but something a conversation
    "llama-3": (llama3, LLAMA3, True),
    "llama-3.2": (llama3, DATED, True),
    "dream": (qwen, QWEN, False),
    "qwen-3": (qwen, THINKS, False),
    "smollm": (qwen, SMOLLM, False),
    "generation": (qwen, GENERATION, False),
    "mistral": (llama2, MISTRAL, True),
    "mistral-first": (lambda: llama2(first=True), MISTRAL, True),
}


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


TALKS = [
    [message("user", "Hello!")],
    [message("user", " The cat?\n"), message("assistant", "It's here;\n\nthe cat."), message("user", "Why {not}?")],
    [
        message("user", "a"),
        message("assistant", "b"),
        message("user", "[INST] no"),
        message("assistant", "c"),
        message("user", "ünï 12"),
    ],
]
SYSTEM = message("system", "You are late.")


@pytest.fixture(params=FOLDERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def folder_of(name: str, where: Path) -> Path:
    """A tokenizer with a template in its settings."""
    make, template, opens = FOLDERS[name]
    text, ids = make()
    (where / "tokenizer.json").write_text(text)
    backend = Tokenizer.from_str(text)
    tokens = {"bos_token": "<s>" if make is llama2 or "mistral" in name else "<|begin_of_text|>"}
    tokens |= {"eos_token": backend.id_to_token(ids.end)}
    if make is qwen:
        del tokens["bos_token"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens, "add_bos_token": opens}
    (where / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return where


def test_the_ids_of_a_conversation_are_those_of_the_library(name: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    folder = folder_of(name, tmp_path)
    make, _, opens = FOLDERS[name]
    text, ids = make()
    ids = ids if opens else type(ids)(ids.mask, ids.end, ids.pad, None)
    chat, refused = chat_of(read_vocabulary(folder, byte_level=False), ids.start)
    assert chat is not None and refused == {}
    tokenizer = read_tokenizer(text, ids)
    template = ChatTemplate.from_dict(json.loads(json.dumps(chat)), tokenizer=tokenizer)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for talk in [*TALKS, *([SYSTEM, *talk] for talk in TALKS if template.system)]:
        rendered = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert "".join(map(tokenizer.name_of, tokenizer.begin)) + template.text(talk) == rendered
        expected = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert [*tokenizer.begin, *template.prompt(talk, tokenizer)] == expected
        ours = template.prompt(talk, tokenizer)
        assert template.fit(talk, tokenizer, len(ours))[1] == 0
    (answer,) = template.answers(["the cat"], tokenizer)
    assert answer[-1] == tokenizer.end_id and tokenizer.decode(answer) == "the cat"


def test_content_that_spells_a_special_token_stays_content(name: str, tmp_path: Path):
    make, _, opens = FOLDERS[name]
    text, ids = make()
    vocabulary = read_vocabulary(folder_of(name, tmp_path), byte_level=False)
    chat, _ = chat_of(vocabulary, ids.start if opens else None)
    tokenizer = read_tokenizer(text, ids)
    template = ChatTemplate.from_dict(chat or {}, tokenizer=tokenizer)

    def specials(content: str) -> list[int]:
        found = template.prompt([message("user", content)], tokenizer)
        return [token for token in found if tokenizer.is_special(token) and token != tokenizer.pad_id]

    spelled = "".join(map(tokenizer.name_of, (tokenizer.end_id, tokenizer.mask_id)))
    assert specials("x") == specials(f"x{spelled}x")


def test_what_was_read_off(tmp_path: Path):
    chat = read_template(QWEN, {}, {"<|im_start|>", "<|im_end|>"}, None)
    assert chat["default_system"] == "You are a helpful assistant." and not chat["always_system"]
    assert chat["user"] == {"before": ["<|im_start|>", "user\n"], "after": ["<|im_end|>", "\n"]}
    assert chat["cue"] == ["<|im_start|>", "assistant\n"] and chat["opening"] == [] and not chat["strip"]
    dated = read_template(DATED, {"bos_token": "<b>"}, {"<b>"}, "<b>")
    assert dated["always_system"] and dated["default_system"] == "" and dated["strip"] and dated["opening"] == []
    assert read_template(LLAMA3, {"bos_token": "<b>"}, {"<b>"}, None)["opening"] == ["<b>"]
    mistral = read_template(MISTRAL, {"bos_token": "<s>", "eos_token": "</s>"}, {"<s>", "</s>"}, "<s>")
    assert mistral["system"] is None and mistral["cue"] == []
    with pytest.raises(ValueError, match=r"messages\[0\].role: this model knows no system messages"):
        ChatTemplate.from_dict(mistral).check([SYSTEM, *TALKS[0]])


@pytest.mark.parametrize(
    ("source", "start", "complaint"),
    [
        ("{% for x in %}", None, "not a template: "),
        (f"{{{{ {'(' * 3000}1{')' * 3000} }}}}", None, "not a template: "),
        ("{{ messages[7].content }}", None, "it fails: "),
        ("{{ raise_exception('no') }}", None, "it says: no"),
        ("{{ messages[0].content }}{{ messages[0].content }}", None, "a message appears 2 times"),
        (SMOLLM, "<s>", "its conversations do not begin with '<s>', as the model's texts do"),
        (
            f"{{% for message in messages %}}{{{{ loop.index }}}}{CHATML}{{% endfor %}}{CUE}",
            None,
            "not the same everywhere",
        ),
        (
            f"{{% for message in messages %}}{CHATML}{{% endfor %}}{{{{ '!' * (messages | length > 4) }}}}{CUE}",
            None,
            "it is more than what stands around the turns: 5 messages that begin with 'What is",
        ),
        (
            "{% for message in messages %}"
            + CHATML.replace("['content']", "['content'] | upper")
            + "{% endfor %}"
            + CUE,
            None,
            "appears 0 times",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", None, "it fails: "),
    ],
    ids=["syntax", "deep", "failing", "raising", "twice", "start", "counting", "length", "upper", "escape"],
)
def test_a_template_that_is_no_data_is_refused_in_one_line(source: str, start: str | None, complaint: str):
    with pytest.raises(TemplateError, match=complaint) as raised:
        read_template(source, {"bos_token": "<s>"}, {"<s>"}, start)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ 9 ** 9 ** 9 }}", r"too large for \*\*"),
        ("{{ 'a' * 10000000000 }}", r"too large for \*"),
        ("{{ '%10000000000d' % 1001 }}", "too large for %"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "it takes more than"),
        ("{{ lipsum(1000000) }}", "it takes more than"),
    ],
)
def test_a_template_that_would_never_end_is_refused(source: str, complaint: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template, "_SECONDS", 0.05)
    before = sys.gettrace()
    with pytest.raises(TemplateError, match=complaint):
        read_template(source, {}, set(), None)
    assert sys.gettrace() is before


def test_templates_are_found_where_the_library_keeps_them(tmp_path: Path):
    folder = folder_of("smollm", tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    found = [chat_of(read_vocabulary(folder, byte_level=False), None)[0]]
    several = [{"name": "tool_use", "template": "{{ x.y.z }}"}, {"name": "default", "template": SMOLLM}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": several}))
    found.append(chat_of(read_vocabulary(folder, byte_level=False), None)[0])
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert chat_of(read_vocabulary(folder, byte_level=False), None) == (None, {})
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": SMOLLM}))
    found.append(chat_of(read_vocabulary(folder, byte_level=False), None)[0])
    (folder / "chat_template.jinja").write_text(SMOLLM)
    found.append(chat_of(read_vocabulary(folder, byte_level=False), None)[0])
    assert found[0] and all(one == found[0] for one in found)
    (folder / "chat_template.jinja").write_text("{{ messages[9].content }}")
    chat, why = chat_of(read_vocabulary(folder, byte_level=False), None)
    assert chat is None and why["no_chat"].startswith("its chat template has no form that is data: it fails: ")


def test_a_template_that_always_asks_for_an_answer():
    always = LLAMA3.partition("{% if add_generation_prompt")[0]
    always += "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"  # as LLaDA's does
    names = {"bos_token": "<|startoftext|>"}
    special = {"<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}
    plain = read_template(LLAMA3, names, special, None)
    assert read_template(always, names, special, None) == plain
    assert plain["cue"] == ["<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"]
    assert plain["assistant"]["after"] == ["<|eot_id|>"] and plain["opening"] == ["<|startoftext|>"]
