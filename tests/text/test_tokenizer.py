"""The tokenizer keeps every byte, and no text reaches a special token."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfumato.text.tokenizer import SMALLEST_VOCABULARY, SPECIAL, Tokenizer, TokenizerError

TEXTS = {
    "empty": "",
    "english": "It wasn't late; they'd 1,234 reasons to stay, didn't they?",
    "german": "Größere Füße trügen Äpfel über die Straße. »Ja«, sagte er.",
    "hindi": "एक बार की बात है, एक छोटा हाथी क्षितिज की ओर चला।",
    "arabic": "كَانَ يَا مَا كَانَ، في قَدِيمِ الزَّمَانِ ١٢٣",
    "chinese": "从前有一只小猫，它住在山上。𠮷野家",
    "japanese": "むかしむかし、あるところにおじいさんがいました。ｶﾞ",
    "thai": "กาลครั้งหนึ่งนานมาแล้ว มีช้างน้อยตัวหนึ่ง",
    "emoji": "👩🏽‍🚀 👨‍👩‍👧‍👦 ❤️‍🔥 🇩🇪 👍🏿 1️⃣",
    "marks": "e\u0301 a\u0323\u0302 Z\u0351\u036b\u0343a\u0302lgo \u0301alone",
    "control": "".join(map(chr, [*range(1, 32), *range(127, 160)])),
    "invisible": "\ufeffa\u200bb\u200dc\u2028d\u2029e\u00a0f\u3000g\uffff\U0010ffff\ufffd",
    "lines": "one\r\ntwo\r\r\nthree\n\n\n  four\t\n",
    "spaces": "   leading, double  inside, trailing   ",
    "special": "a<|mask|>b <|end|><|pad|> <|start|>\n<|system|><|user|> <|assistant|> <|mask <||mask|>|>",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for text in TEXTS.values() for _ in range(3)], 600)


@pytest.mark.parametrize("name", TEXTS)
def test_round_trip_is_exact(tokenizer, name):
    ids = tokenizer.encode(TEXTS[name])
    assert tokenizer.decode(ids) == TEXTS[name]
    assert b"".join(map(tokenizer.token_bytes, ids)) == TEXTS[name].encode()


def test_round_trip_is_exact_for_every_character(tokenizer):
    everything = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x30000)]))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


def test_text_never_becomes_a_special_token(tokenizer):
    for text in (TEXTS["special"], *SPECIAL, "".join(SPECIAL), *(f"x{token}x" for token in SPECIAL)):
        assert min(tokenizer.encode(text)) >= len(SPECIAL)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_on_special_text_alone_learns_no_special_token():
    tokenizer = Tokenizer.train(list(SPECIAL) * 50, 2000)
    assert all(min(tokenizer.encode(token)) >= len(SPECIAL) for token in SPECIAL)
    assert len(tokenizer.encode("<|mask|>")) == 3


def test_special_tokens_have_fixed_ids_and_no_bytes(tokenizer):
    ids = [tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id, *tokenizer.roles.values()]
    assert ids == list(range(len(SPECIAL)))
    assert list(tokenizer.roles) == ["system", "user", "assistant"]
    assert [tokenizer.token_bytes(token_id) for token_id in ids] == [b""] * len(SPECIAL)
    assert tokenizer.decode([0, *tokenizer.encode("a b"), 1, 2]) == "a b"


def test_batches_equal_single_texts(tokenizer):
    texts = list(TEXTS.values())
    assert tokenizer.encode_batch(iter(texts)) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_training_is_deterministic_in_fresh_processes(tokenizer):
    code = (
        "import json, sys; from sfumato.text.tokenizer import Tokenizer;"
        "print(Tokenizer.train(json.load(sys.stdin), 600).fingerprint)"
    )
    texts = json.dumps([text for text in TEXTS.values() for _ in range(3)])
    source = str(Path(sys.modules[Tokenizer.__module__].__file__ or "").parents[2])
    for threads in ("1", "4"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONPATH": source}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, input=texts, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == tokenizer.fingerprint


def test_vocabulary_shrinks_to_what_the_text_supports():
    assert Tokenizer.train([], 5000).vocab_size == SMALLEST_VOCABULARY
    assert Tokenizer.train(["ab ab"], 5000).vocab_size == SMALLEST_VOCABULARY + 1
    assert Tokenizer.train(["ab ab"], SMALLEST_VOCABULARY).vocab_size == SMALLEST_VOCABULARY


def test_vocabulary_is_exactly_as_asked_when_the_text_is_large_enough(tokenizer):
    assert tokenizer.vocab_size == 600
    assert max(max(tokenizer.encode(text), default=0) for text in TEXTS.values()) < 600


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"^vocab_size must be at least 263 .*, got 262$"):
        Tokenizer.train(["a"], 262)


def test_digits_stand_alone():
    tokenizer = Tokenizer.train(["2024 2024 2024 x2024"], 400)
    assert [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode("2024")] == [b"2", b"0", b"2", b"4"]


@pytest.mark.parametrize(
    ("text", "message"), [("ab\0c", "NUL character at position 2"), ("é\ud83d", r"\(U\+D83D\) at position 1")]
)
def test_nul_and_lone_surrogates_are_refused_with_their_position(tokenizer, text, message):
    for use in (tokenizer.encode, lambda bad: tokenizer.encode_batch([bad]), lambda bad: Tokenizer.train([bad], 300)):
        with pytest.raises(ValueError, match=message) as raised:
            use(text)
        assert len(str(raised.value).splitlines()) == 1


def test_broken_utf8_decodes_to_the_replacement_character(tokenizer):
    euro = [
        next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([b])) for b in "€".encode()
    ]
    assert tokenizer.decode(euro) == "€"
    assert tokenizer.decode(euro[:2]) == "\ufffd"


@pytest.mark.parametrize("token_id", [-1, 600])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, token_id):
    with pytest.raises(ValueError, match=f"from 0 to 599, got {token_id}"):
        tokenizer.decode([token_id])


@pytest.mark.parametrize("target", ["tokenizer.json", "new/folder/other.json", ""])
def test_saved_and_loaded_is_the_same(tokenizer, tmp_path, target):
    tokenizer.save(tmp_path / target)
    again = Tokenizer.load(tmp_path / target)
    assert again.fingerprint == tokenizer.fingerprint == Tokenizer.from_json(tokenizer.to_json()).fingerprint
    assert again.encode_batch(TEXTS.values()) == tokenizer.encode_batch(TEXTS.values())
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]


def test_the_file_names_its_special_tokens_for_other_programs(tokenizer):
    assert [token["content"] for token in json.loads(tokenizer.to_json())["added_tokens"]] == list(SPECIAL)


def test_a_failed_save_leaves_the_old_file(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def _changed(tokenizer, change) -> bytes:
    content = json.loads(tokenizer.to_json())
    change(content)
    return json.dumps(content).encode()


BROKEN = {
    "truncated": (lambda t: t.to_json().encode()[:-9], "not a tokenizer: "),
    "empty": (lambda t: b"", "not a tokenizer: "),
    "not UTF-8": (lambda t: b"\xff" + t.to_json().encode(), "byte 0 is not UTF-8"),
    "a list": (lambda t: b"[]", "not a tokenizer: "),
    "other JSON": (lambda t: b"{}", "not a tokenizer: "),
    "swapped": (
        lambda t: _changed(t, lambda c: c["model"]["vocab"].update({SPECIAL[0]: 1, SPECIAL[1]: 0})),
        "id 0, found it at 1",
    ),
    "no special": (lambda t: _changed(t, lambda c: c["model"]["vocab"].pop(SPECIAL[6])), "at id 6, found it at none"),
    "gap": (lambda t: _changed(t, lambda c: c["model"]["vocab"].update({"zzz": 9999})), "without a gap"),
    "no byte": (
        lambda t: _changed(
            t, lambda c: (c["model"].update(merges=[]), c["model"]["vocab"].update(qqq=c["model"]["vocab"].pop("q")))
        ),
        "256 bytes",
    ),
    "foreign": (lambda t: _changed(t, lambda c: c["model"]["vocab"].update({"字": 600})), "not byte-level: '字'"),
    "pieces": (lambda t: _changed(t, lambda c: c.update(pre_tokenizer=None)), "its pre_tokenizer differs"),
    "normalizer": (lambda t: _changed(t, lambda c: c.update(normalizer={"type": "NFC"})), "its normalizer differs"),
    "dropout": (lambda t: _changed(t, lambda c: c["model"].update(dropout=0.5)), "its dropout differs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_clear_line(tokenizer, tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / "tokenizer.json").write_bytes(content(tokenizer))
    with pytest.raises(TokenizerError) as raised:
        Tokenizer.load(tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "tokenizer.json"))
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot read the tokenizer: No such file"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match="cannot read"):
        Tokenizer.load(tmp_path)


def test_two_megabytes_encode_in_seconds(tokenizer):
    text = (TEXTS["english"] + " " + TEXTS["hindi"] + "\n") * 20_000
    start = time.monotonic()
    ids = tokenizer.encode(text)
    assert time.monotonic() - start < 20  # about one second; the limit only catches quadratic time
    assert tokenizer.decode(ids) == text
