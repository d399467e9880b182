"""What a client sees of a row: deltas are settled whole characters, and the view is the whole row."""

import pytest

from sfumato.sample.front import Front
from sfumato.sample.trace import Commit, Event
from sfumato.serve.streams import MASKED, RowView, chat_logprobs, completion_logprobs, logprob
from sfumato.text.prompt import Row


@pytest.fixture(scope="module")
def front() -> Front:
    return Front.load("tiny")


def laid_out(front: Front, prompt: str, text: str, room: int = 0) -> tuple[Row, list[int]]:
    """A row with a place for every token of the text (and more), and these tokens."""
    before, tokens = [front.tokenizer.start_id, *front.tokenizer.encode(prompt)], front.tokenizer.encode(text)
    count = room or len(tokens)
    row = Row(before + [front.tokenizer.mask_id] * count, [False] * len(before) + [True] * count)
    return row, tokens


def commit(position: int, token: int, probability: float = 0.5) -> Commit:
    return Commit(position, token, probability, 0.7, ((7, 0.3), (8, 0.1), (9, 0.05)))


def write(view: RowView, row: Row, tokens: list[int], order: list[int]) -> list[str]:
    """Write the tokens in some order, one a step; the deltas."""
    first, deltas, filled = row.first_written, [], list(row.tokens)
    for step, i in enumerate(order, 1):
        filled[first + i] = tokens[i]
        settled = next((n for n, token in enumerate(filled) if token == 0), len(filled))
        done = tuple(filled) if step == len(order) else None
        view.take(Event(0, step, step, (commit(first + i, tokens[i]),), done, settled=settled, positions=step * 10))
        deltas.append(view.delta()[0])
    return deltas


@pytest.mark.parametrize("order", ["forward", "backward", "inside out"])
@pytest.mark.parametrize("text", ["Straße 🦊 naïve 你好", " once", "a\nb\t c"])
def test_deltas_are_whole_characters_and_add_up(front: Front, text: str, order: str):
    row, tokens = laid_out(front, "Tom", text)
    places = list(range(len(tokens)))
    places = {"forward": places, "backward": places[::-1], "inside out": sorted(places, key=lambda i: i * 7 % 5)}[order]
    view = RowView(row, front.tokenizer)
    deltas = write(view, row, tokens, places)
    assert "".join(deltas) == view.text == text
    assert not any("\ufffd" in delta for delta in deltas)
    assert (view.finish, view.nfe, view.positions) == ("length", len(tokens), 10 * len(tokens))
    assert (view.prompt_tokens, view.completion_tokens) == (row.first_written, len(tokens))


@pytest.mark.parametrize("stop", ["END", "one END", "E", "D and", "ND "])
def test_a_stop_string_ends_the_text_and_nothing_of_it_is_ever_sent(front: Front, stop: str):
    text = " some words then one END and more words"
    row, tokens = laid_out(front, "Tom", text)
    view = RowView(row, front.tokenizer, stops=[stop, "never"])
    deltas = write(view, row, tokens, list(range(len(tokens))))
    assert "".join(deltas) == view.text == text[: text.index(stop)]
    assert view.finish == "stop"
    assert view.completion_tokens < len(tokens)


def test_what_only_looked_like_a_stop_string_is_sent_in_the_end(front: Front):
    row, tokens = laid_out(front, "Tom", " a b EN")
    view = RowView(row, front.tokenizer, stops=["END"])
    deltas = write(view, row, tokens, list(range(len(tokens))))
    assert "".join(deltas) == " a b EN" and view.finish == "length"


def test_the_end_of_the_text_ends_the_completion(front: Front):
    row, tokens = laid_out(front, "Tom", " sat.", room=9)
    filled = tokens + [front.tokenizer.end_id] * (9 - len(tokens))
    view = RowView(row, front.tokenizer)
    view.take(Event(0, 1, 1, (), (*row.tokens[: row.first_written], *filled), settled=0))
    assert (view.text, view.finish) == (" sat.", "stop")
    assert view.completion_tokens == len(tokens) + 1


def test_half_a_character_at_the_end_is_replaced(front: Front):
    row, tokens = laid_out(front, "Tom", " ok 🦊")
    view = RowView(Row(row.tokens[:-1], row.editable[:-1]), front.tokenizer)
    write(view, Row(row.tokens[:-1], row.editable[:-1]), tokens[:-1], list(range(len(tokens) - 1)))
    assert view.text == " ok \ufffd" == front.tokenizer.decode(tokens[:-1])


def test_the_view_replaces_masks_by_haze_and_tells_drafts(front: Front):
    row, tokens = laid_out(front, "Tom", " had a big ball", room=6)
    first, view = row.first_written, RowView(row, front.tokenizer)
    assert view.shown()["text"] == MASKED * 6 and view.shown()["masked"] == [[0, 6]]
    view.take(Event(0, 1, 1, (commit(first + 1, tokens[1], 0.9),), None, drafts=(commit(first, tokens[0], 0.4),)))
    shown = view.shown()
    assert shown["text"] == f"{MASKED} a{MASKED * 4}"
    assert shown["masked"] == [[0, 1], [3, 7]] and shown["confidence"] == 0.9
    assert [token["state"] for token in shown["tokens"]] == ["draft", "committed", *["masked"] * 4]
    assert (shown["tokens"][0]["text"], shown["tokens"][1]["step"]) == (" had", 1)
    assert [token["position"] for token in shown["tokens"]] == list(range(first, first + 6))
    view.take(Event(0, 2, 2, (), None, reopened=(first + 1,)))
    assert view.shown()["text"] == MASKED * 6 and view.shown()["confidence"] is None


def test_the_whole_view_has_every_place(front: Front):
    row = front.row("Tom {2} dog.", 1, template=True)
    shown = RowView(row, front.tokenizer).shown(whole=True)
    assert len(shown["tokens"]) == len(row.tokens)
    assert shown["tokens"][0] == {"position": 0, "text": "", "state": "given"}
    assert shown["text"] == f"Tom {MASKED * 2} dog."


def test_rows_may_grow(front: Front):
    tokens = front.tokenizer.encode("Tom sat")
    row = Row([3, tokens[0], tokens[1]], [False] * 3, [False, True, False], 10)
    view = RowView(row, front.tokenizer, tail=1)
    view.take(Event(0, 1, 1, (), None, inserted=(2, 3)))
    assert view.shown()["text"] == MASKED * 2 and view.first == 2
    view.take(Event(0, 2, 2, (), (3, tokens[0], 50, 51, tokens[1])))
    assert view.text == front.tokenizer.decode([50, 51]) and view.completion_tokens == 2


def test_logprobs_are_those_of_the_committing_step(front: Front):
    row, tokens = laid_out(front, "Tom", " had a ball")
    view = RowView(row, front.tokenizer)
    write(view, row, tokens, list(range(len(tokens))))
    view._told = 0
    view._sent = 0
    piece, places = view.delta()
    told = completion_logprobs(view, places, 2, 5)
    assert "".join(told["tokens"]) == piece == " had a ball"
    assert told["token_logprobs"] == pytest.approx([-0.6931] * len(tokens), abs=1e-3)
    assert told["text_offset"][:2] == [5, 9] and all(len(best) == 2 for best in told["top_logprobs"])
    content = chat_logprobs(view, places, 3)["content"]
    assert [len(entry["top_logprobs"]) for entry in content] == [3] * len(tokens)
    assert bytes(content[0]["bytes"]).decode() == content[0]["token"] == " had"
    assert logprob(0.0) == -9999.0
