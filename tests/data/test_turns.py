"""Conversations as examples: one for each answer, and only the answer is learned."""

import pytest

from sfumato.data.cache import Encoded
from sfumato.data.sources import DataError, Pair
from sfumato.data.turns import Turns
from sfumato.model.bundle import find_bundle
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import Tokenizer

END, SYSTEM, USER, ASSISTANT = 1, 4, 5, 6
CHAT = (("user", "Hi."), ("assistant", "Hello!"), ("user", "A story?"), ("assistant", "No."))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(find_bundle("tiny"))


def rows(tokenizer: Tokenizer, *documents, context: int = 64, block: int = 0, fill: bool = True, system: str = ""):
    return list(Turns(ChatTemplate(default_system=system), context, block, fill)(documents, tokenizer))


def parts(row: Encoded) -> tuple[list[int], list[int]]:
    return row.tokens[: row.prompt], row.tokens[row.prompt :]


def test_one_example_for_each_answer_behind_what_came_before(tokenizer: Tokenizer):
    encode, template = tokenizer.encode, ChatTemplate()
    first, second = rows(tokenizer, CHAT, fill=False)
    messages = [{"role": role, "content": content} for role, content in CHAT]
    assert parts(first) == (template.prompt(messages[:1], tokenizer), [*encode("Hello!"), END])
    assert parts(second) == (template.prompt(messages[:3], tokenizer), [*encode("No."), END])
    assert (first.bytes, second.bytes) == (6, 3)


def test_pairs_are_a_question_and_its_answer(tokenizer: Tokenizer):
    [row] = rows(tokenizer, Pair("Hi.", "Hello!"), fill=False)
    assert row == rows(tokenizer, CHAT[:2], fill=False)[0]


def test_of_a_conversation_and_its_response_the_response_alone_is_learned(tokenizer: Tokenizer):
    for system in ("", "Be kind."):
        [row] = rows(tokenizer, Pair(CHAT[:3], "No."), fill=False, system=system)
        assert row == rows(tokenizer, CHAT, fill=False, system=system)[1]


def test_a_conversation_is_held_out_as_a_whole(tokenizer: Tokenizer):
    first, second = rows(tokenizer, CHAT)
    assert first.hash == second.hash != rows(tokenizer, CHAT[:2])[0].hash


def test_a_default_system_turn_comes_first(tokenizer: Tokenizer):
    [row, _] = rows(tokenizer, CHAT, system="Be kind.")
    assert row.tokens[0] == SYSTEM
    [row] = rows(tokenizer, (("system", "No."), *CHAT[:2]), system="Be kind.")
    assert row.tokens.count(SYSTEM) == 1 and row.tokens[1:2] == tokenizer.encode("No")[:1]


@pytest.mark.parametrize("block", [4, 16])
def test_the_canvas_of_blocks_ends_with_a_block(tokenizer: Tokenizer, block: int):
    for row in rows(tokenizer, CHAT, block=block):
        assert (1 + len(row.tokens)) % block == 0
        plain = [*row.tokens]
        while plain[-1] == END:
            plain.pop()
        assert len(row.tokens) - len(plain) <= block


def test_the_canvas_without_blocks_has_any_length(tokenizer: Tokenizer):
    found = rows(tokenizer, *[Pair(f"Say {i}.", "Yes.") for i in range(300)], context=128)
    lengths = [1 + len(row.tokens) for row in found]
    shortest = min(lengths)
    assert max(lengths) <= 128 and len(set(lengths)) > 50
    middle = (shortest * 128) ** 0.5  # of a log-uniform law
    assert 0.4 < sum(length < middle for length in lengths) / 300 < 0.6
    assert found == rows(tokenizer, *[Pair(f"Say {i}.", "Yes.") for i in range(300)], context=128)


def test_the_oldest_turns_go_where_the_context_is_too_small(tokenizer: Tokenizer):
    *_, last = rows(tokenizer, CHAT, context=13, fill=False)
    prompt, answer = parts(last)
    assert answer == [*tokenizer.encode("No."), END]
    assert prompt == [USER, *tokenizer.encode("A story?"), ASSISTANT]


def test_an_answer_longer_than_the_context_is_cut_and_has_no_end(tokenizer: Tokenizer):
    [row] = rows(tokenizer, Pair("Hi.", "word " * 50), context=20)
    assert len(row.tokens) == 19 and END not in row.tokens and row.prompt == 1
    assert row.bytes == len(tokenizer.decode(row.tokens[1:]).encode())


def test_a_question_longer_than_the_context_loses_its_beginning(tokenizer: Tokenizer):
    [row] = rows(tokenizer, Pair("word " * 50, "Yes."), context=20, fill=False)
    assert len(row.tokens) == 19 and row.tokens[row.prompt - 1] == ASSISTANT
    assert row.tokens[row.prompt :] == [*tokenizer.encode("Yes."), END]


def test_what_holds_no_answer_gives_no_example(tokenizer: Tokenizer):
    assert rows(tokenizer, (("user", "Hi."),), (("assistant", "Hello!"),), (("user", "a"), ("assistant", "  "))) == []


def test_a_plain_text_is_refused(tokenizer: Tokenizer):
    with pytest.raises(DataError, match="expected conversations"):
        rows(tokenizer, "Once upon a time")
