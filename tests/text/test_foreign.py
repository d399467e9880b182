"""Tokenizers of other models say what their library says, keep bytes, and no text reaches a special token."""

import json
import pickle

import pytest
import tokenizers
from foreign_tokenizers import ALL, Ids, llama2, xlmr

from sfumato.text.foreign import ForeignTokenizer
from sfumato.text.tokenizer import SPECIAL, Tokenizer, TokenizerError, read_tokenizer

MADE = {**{name: make() for name, make in ALL.items()}, "llama2-first": llama2(first=True)}
EXACT = ("qwen", "llama3", "llama2", "llama2-first")
TEXTS = (
    "",
    "Hello, the cat's mat.",
    "once  upon\n\na time\t.",
    "Größere Füße, 12! they'd",
    '{"name": "Tom"}',
    "🚀 é ﷽",
    "x" * 50,
)


@pytest.fixture(params=MADE)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def library(text: str) -> tokenizers.Tokenizer:
    """What the file itself does, without frames, cuts and padding."""
    backend = tokenizers.Tokenizer.from_str(text)
    backend.no_truncation()
    backend.no_padding()
    return backend


def ids_of(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


def foreign(kind: str) -> ForeignTokenizer:
    found = read_tokenizer(*MADE[kind])
    assert isinstance(found, ForeignTokenizer)
    return found


def test_ids_are_those_of_the_library(kind: str):
    tokenizer, backend = foreign(kind), library(MADE[kind][0])
    assert [tokenizer.encode(text) for text in TEXTS] == [ids_of(backend, text) for text in TEXTS]
    assert tokenizer.encode_batch(iter(TEXTS)) == [ids_of(backend, text) for text in TEXTS]
    assert tokenizer.encode_batch([]) == []


def test_decoded_is_the_text_or_what_the_library_makes_of_it(kind: str):
    tokenizer, backend = foreign(kind), library(MADE[kind][0])
    for text in TEXTS:
        ids = tokenizer.encode(text)
        known = not any(tokenizer.is_special(token) for token in ids)
        assert tokenizer.decode(ids) == (text if kind in EXACT else backend.decode(ids)) or not known
        assert tokenizer.decode([*tokenizer.begin, *ids, tokenizer.end_id]) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", EXACT)
def test_bytes_are_exact_where_the_kind_keeps_them(kind: str):
    tokenizer = foreign(kind)
    for text in TEXTS:
        raw = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
        assert raw in (text.encode(), b" " + text.encode())
        continued = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text, continued=True)))
        assert continued == text.encode()


@pytest.mark.parametrize("kind", ["llama2", "llama2-first", "xlmr"])
def test_text_that_goes_on_gets_no_space_before_it(kind: str):
    tokenizer = foreign(kind)
    begun = tokenizer.encode("the li")
    row = [*begun, *tokenizer.encode("ttle cat", continued=True)]
    assert tokenizer.decode(row) == "the little cat"
    assert tokenizer.decode(tokenizer.encode(" cat", continued=True), continued=True) == " cat"
    assert tokenizer.encode("cat") != tokenizer.encode("cat", continued=True)


SPELLED = ["<s>", "</s>", "<mask>", "<pad>", "[MASK]", "[CLS]", "<|im_start|>", "<|endoftext|>", "<|mask|>", "<0x41>"]
SPELLED += ["<|begin_of_text|>", "<|eot_id|>", "▁<s>", "\x01<s>", "".join(SPECIAL)]


def test_text_that_spells_a_special_token_is_ordinary_text(kind: str):
    tokenizer = foreign(kind)
    names = [name for name in SPELLED if tokenizer.special_id(name) is not None]
    assert names
    meaning = {tokenizer.mask_id, tokenizer.end_id, *tokenizer.begin}
    for text in (*SPELLED, *(f"a{name}b" for name in SPELLED), "".join(names)):
        ids = tokenizer.encode(text)
        assert not meaning & set(ids)
        assert not meaning & set(tokenizer.encode(text, continued=True))
        if kind in ("qwen", "llama3"):
            assert tokenizer.decode(ids) == text and not any(map(tokenizer.is_special, ids))


def test_ordinary_added_tokens_stay_tokens():
    tokenizer = foreign("qwen")
    (token,) = tokenizer.encode("<think>")
    assert tokenizer.token_bytes(token) == b"<think>" and not tokenizer.is_special(token)


def test_parts_are_tokenised_as_the_library_tokenises_the_whole(kind: str):
    tokenizer, backend = foreign(kind), library(MADE[kind][0])
    end = tokenizer.end_id
    parts = [*tokenizer.begin, "Hello", " the cat", end, "the mat", end]
    spelled = "".join(part if isinstance(part, str) else tokenizer.name_of(part) for part in parts)
    assert tokenizer.encode_parts([parts, [end]]) == [ids_of(backend, spelled), [end]]
    name = tokenizer.name_of(end)
    (row,) = tokenizer.encode_parts([["say " + name, end]])
    assert row[-1] == end and end not in row[:-1]


def test_special_and_padded_ids_stand_for_nothing(kind: str):
    text, ids = MADE[kind]
    own = foreign(kind).vocab_size
    tokenizer = read_tokenizer(text, ids, vocab_size=own + 5)
    assert tokenizer.vocab_size == own + 5 and tokenizer.identity != foreign(kind).identity
    for token in (ids.mask, ids.end, *tokenizer.begin, own, own + 4):
        assert tokenizer.is_special(token) and tokenizer.token_bytes(token) == b""
    assert tokenizer.decode([own, *tokenizer.encode("the cat"), ids.mask, own + 4]) == "the cat"
    with pytest.raises(ValueError, match=f"token id must be from 0 to {own + 4}, got {own + 5}"):
        tokenizer.token_bytes(own + 5)
    with pytest.raises(TokenizerError, match=f"its ids go up to {own - 1}, but the network has 60 tokens"):
        read_tokenizer(text, ids, vocab_size=60)


@pytest.mark.parametrize(("text", "message"), [("ab\0c", "NUL character at position 2"), ("é\ud83d", r"\(U\+D83D\)")])
def test_nul_and_lone_surrogates_are_refused(kind: str, text: str, message: str):
    tokenizer = foreign(kind)
    for use in (tokenizer.encode, lambda bad: tokenizer.encode_batch([bad]), lambda b: tokenizer.encode_parts([[b]])):
        with pytest.raises(ValueError, match=message):
            use(text)


def test_a_tokenizer_travels_to_another_process_whole(kind: str):
    tokenizer = foreign(kind)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.identity == tokenizer.identity and again.to_json() == MADE[kind][0]
    assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


def test_which_ids_are_special_is_part_of_the_identity():
    text, ids = MADE["qwen"]
    other = read_tokenizer(text, Ids(ids.mask, ids.end + 2, ids.pad, ids.start))
    assert other.fingerprint == foreign("qwen").fingerprint and other.identity != foreign("qwen").identity


def test_a_tokenizer_of_ours_is_read_as_before():
    ours = Tokenizer.train(["a b"], 270)
    found = read_tokenizer(ours.to_json(), Ids(0, 1, 2, 3))
    assert isinstance(found, Tokenizer) and found.identity == ours.fingerprint
    assert found.encode("a b", continued=True) == found.encode("a b")
    assert found.encode_parts([[5, "a", " b", 1], []]) == [[5, *found.encode("a b"), 1], []]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "^here: not a tokenizer: "),
        ("[]", "^here: not a tokenizer: "),
        ("{}", "^here: not a tokenizer: 'model'"),
        (tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 9}, "a")).to_str(), "no text of their own"),
        (json.dumps({**json.loads(xlmr()[0]), "model": {"type": "Unheard", "vocab": {}}}), "not a tokenizer"),
    ],
    ids=["cut", "list", "empty", "words", "unknown"],
)
def test_what_is_no_tokenizer_that_can_be_used_is_refused_in_one_line(content: str, message: str):
    with pytest.raises(TokenizerError, match=message) as raised:
        read_tokenizer(content, Ids(8, 7, 7, None), where="here")
    assert "\n" not in str(raised.value)
