import random

import pytest

from sfumato.show.pieces import HAZE, harmless, pieces
from sfumato.text.tokenizer import Tokenizer

TEXTS = [
    "A cat sat. A cat ran.",
    "Größe, naïve, Ærøskøbing – “ja”",
    "从前有一个小女孩，她喜欢花园。",
    "नमस्ते दुनिया, สวัสดีชาวโลก",
    "👩‍👩‍👧 🌻🇩🇪 ok 👍🏽",
    "مرحبا, שלום, 안녕하세요, テスト",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXTS[0]] * 3, 270)  # so few merges that most characters are several tokens


@pytest.mark.parametrize("text", TEXTS)
def test_all_pieces_together_are_the_text(text: str, tokenizer: Tokenizer):
    ids = tokenizer.encode(text)
    assert "".join(pieces(ids, [True] * len(ids), tokenizer.token_bytes)) == text


def test_all_pieces_together_are_what_decode_says_even_of_broken_bytes(tokenizer: Tokenizer):
    for seed in range(200):
        ids = random.Random(seed).choices(range(tokenizer.vocab_size), k=12)
        assert "".join(pieces(ids, [True] * 12, tokenizer.token_bytes)) == harmless(tokenizer.decode(ids))


@pytest.mark.parametrize("text", TEXTS)
def test_half_a_character_is_never_shown(text: str, tokenizer: Tokenizer):
    ids = tokenizer.encode(text)
    for seed in range(100):
        draw = random.Random(seed)
        share = draw.random()
        known = [draw.random() < share for _ in ids]
        found = pieces(ids, known, tokenizer.token_bytes)
        assert not any(piece for piece, is_known in zip(found, known, strict=True) if not is_known)
        shown = "".join(piece if is_known else HAZE for piece, is_known in zip(found, known, strict=True))
        assert all(fragment in text for fragment in shown.split(HAZE))  # no U+FFFD
        at = 0
        for piece in found:  # whole characters, in their order
            for character in piece.replace(HAZE, ""):
                at = text.index(character, at) + 1


def test_a_character_appears_when_its_last_token_does(tokenizer: Tokenizer):
    ids = tokenizer.encode("é")
    assert len(ids) == 2
    assert pieces(ids, [True, False], tokenizer.token_bytes) == [HAZE, ""]
    assert pieces(ids, [False, True], tokenizer.token_bytes) == ["", HAZE]
    assert pieces(ids, [True, True], tokenizer.token_bytes) == ["", "é"]


def test_half_a_character_at_the_end_of_a_finished_text_is_a_replacement_character(tokenizer: Tokenizer):
    assert pieces(tokenizer.encode("é")[:1], [True], tokenizer.token_bytes) == ["\ufffd"]


def test_special_tokens_show_nothing_and_split_nothing(tokenizer: Tokenizer):
    first, second = tokenizer.encode("é")
    ids = [tokenizer.start_id, first, tokenizer.pad_id, second]
    assert pieces(ids, [True] * 4, tokenizer.token_bytes) == ["", "", "", "é"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31mred", "␛[31mred"), ("a\tb\r\nc", "a    b\nc"), ("\x07\x7f\x9b", "␇␡\ufffd"), ("a\u2028b", "a\nb")],
)
def test_what_steers_a_terminal_does_not_get_through(text: str, shown: str):
    assert harmless(text) == shown
