import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.config import DataConfig, Source
from sfumato.data.cache import Corpus, open_corpora, sections
from sfumato.data.sources import DataError
from sfumato.text.tokenizer import Tokenizer


@pytest.fixture
def data(tmp_path: Path, stories: list[str]) -> DataConfig:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in stories))
    return DataConfig((Source(str(tmp_path / "a.jsonl")),), held_out=0.1, cache=str(tmp_path / "cache"))


def document(corpus: Corpus, number: int) -> list[int]:
    return corpus.tokens[corpus.offsets[number] : corpus.offsets[number + 1]].tolist()


def built(data: DataConfig, tokenizer: Tokenizer) -> tuple[list[Corpus], bool]:
    """The corpora, and whether anything had to be tokenised."""
    calls: list[Any] = []
    corpora = open_corpora(data, tokenizer, lambda *state: calls.append(state))
    return corpora, bool(calls)


def test_a_corpus_holds_every_document_with_its_end_bytes_and_hash(
    data: DataConfig, tokenizer: Tokenizer, stories: list[str]
) -> None:
    (corpus,) = open_corpora(data, tokenizer)
    for number, text in enumerate(stories):
        assert document(corpus, number) == [*tokenizer.encode(text), tokenizer.end_id]
        assert corpus.length(number) == len(document(corpus, number))
    assert corpus.bytes.tolist() == [len(text.encode()) for text in stories]
    assert corpus.tokens.dtype == np.uint16 and len(set(corpus.hashes.tolist())) == len(stories)


def test_train_and_held_out_share_all_documents(data: DataConfig, tokenizer: Tokenizer, stories: list[str]) -> None:
    (corpus,) = open_corpora(data, tokenizer)
    assert sorted([*corpus.train, *corpus.held_out]) == list(range(len(stories)))
    assert 0.05 < len(corpus.held_out) / len(stories) < 0.15


def test_the_split_follows_the_text_not_its_order_file_or_tokenizer(
    data: DataConfig, tokenizer: Tokenizer, stories: list[str], tmp_path: Path
) -> None:
    (corpus,) = open_corpora(data, tokenizer)
    held_out = [stories[number] for number in corpus.held_out]
    mixed = [*stories[150:], *stories[:150]]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in mixed[:200]))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in mixed[200:]))
    sources = (Source(str(tmp_path / "b.jsonl")), Source(str(tmp_path / "c.jsonl")))
    one, two = open_corpora(DataConfig(sources, 0.1, cache=data.cache), Tokenizer.train(stories[:50], 290))
    assert {mixed[n] for n in one.held_out} | {mixed[200 + n] for n in two.held_out} == set(held_out)
    (again,) = open_corpora(DataConfig(data.sources, 0.3, cache=data.cache), tokenizer)
    assert set(corpus.held_out) < set(again.held_out)  # more held out never lets one back into training


@pytest.mark.parametrize("held_out", [0.0001, 0.9999])
def test_both_sides_of_the_split_have_a_document(
    data: DataConfig, tokenizer: Tokenizer, tmp_path: Path, held_out: float
) -> None:
    (tmp_path / "few.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    (corpus,) = open_corpora(DataConfig((Source(str(tmp_path / "few.jsonl")),), held_out, cache=data.cache), tokenizer)
    assert len(corpus.train) and len(corpus.held_out)


def test_one_text_alone_and_no_holding_out_leave_all_to_training(
    data: DataConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "one.txt").write_text("only this")
    (corpus,) = open_corpora(DataConfig((Source(str(tmp_path / "one.txt")),), 0.9, cache=data.cache), tokenizer)
    assert corpus.train.tolist() == [0] and not len(corpus.held_out)
    (corpus,) = open_corpora(DataConfig(data.sources, 0.0, cache=data.cache), tokenizer)
    assert not len(corpus.held_out)


def test_a_second_opening_tokenises_nothing(data: DataConfig, tokenizer: Tokenizer) -> None:
    (first,), built_first = built(data, tokenizer)
    (second,), built_second = built(data, tokenizer)
    assert built_first and not built_second
    assert first.key == second.key and np.array_equal(first.tokens, second.tokens)


def test_other_content_or_another_tokenizer_is_tokenised_anew(
    data: DataConfig, tokenizer: Tokenizer, stories: list[str]
) -> None:
    built(data, tokenizer)
    assert built(data, Tokenizer.train(stories, 300))[1]
    with open(data.sources[0].path, "a") as handle:
        handle.write('{"text": "one more"}\n')
    assert built(data, tokenizer)[1]


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.npy", "prompts.npy", "bytes.npy", "hashes.npy", "about.json"])
@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_broken_cache_is_rebuilt(data: DataConfig, tokenizer: Tokenizer, name: str, kept: float | None) -> None:
    (first,), _ = built(data, tokenizer)
    path = next(Path(data.cache).rglob(name))
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    (second,), rebuilt = built(data, tokenizer)
    assert rebuilt and path.read_bytes() == content
    assert np.array_equal(first.hashes, second.hashes)
    assert not built(data, tokenizer)[1]


def test_a_failure_while_writing_leaves_nothing(data: DataConfig, tokenizer: Tokenizer) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        open_corpora(data, tokenizer, full)
    assert list((Path(data.cache) / "data").iterdir()) == []


def test_a_kill_while_writing_leaves_no_half_cache(data: DataConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    code = f"""
        import os, signal
        from sfumato.config import DataConfig, Source
        from sfumato.data.cache import open_corpora
        from sfumato.text.tokenizer import Tokenizer
        data = DataConfig((Source({data.sources[0].path!r}),), cache={data.cache!r})
        tokenizer = Tokenizer.load({str(tmp_path / "tokenizer.json")!r})
        open_corpora(data, tokenizer, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (Path(data.cache) / "data").iterdir()
    assert left.name.startswith(".")
    os.utime(left, (0, time.time() - 2 * 86400))  # what is a day old belongs to nobody
    corpora, tokenised = built(data, tokenizer)
    assert tokenised and not left.exists() and len(corpora[0].bytes) == 300


def test_broken_lines_are_remembered_and_stop_a_later_strict_run(
    data: DataConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\nbroken\n{"text": "two"}\n')
    skip = DataConfig(data.sources, on_error="skip", cache=data.cache)
    for tokenised in (True, False):
        (corpus,), was = built(skip, tokenizer)
        assert was == tokenised and len(corpus.bytes) == 2 and corpus.report.skipped == 1
        assert "a.jsonl:2: not JSON" in corpus.report.examples[0]
    with pytest.raises(DataError, match=r"a\.jsonl:2: not JSON"):
        open_corpora(data, tokenizer)
    assert not built(skip, tokenizer)[1]


def test_no_text_at_all_is_one_clear_line(data: DataConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data: give --data.sources"):
        open_corpora(DataConfig(), tokenizer)
    (tmp_path / "a.jsonl").write_text('\n{"text": ""}\n')
    with pytest.raises(DataError, match=r"a\.jsonl: no text in it"):
        open_corpora(data, tokenizer)
    (tmp_path / "a.jsonl").write_text("broken\n")
    with pytest.raises(DataError, match=r"no text in it \(left out 1 broken lines, as .*a\.jsonl:1: not JSON"):
        open_corpora(DataConfig(data.sources, on_error="skip", cache=data.cache), tokenizer)


def test_a_chat_has_role_tokens_and_an_end_after_each_answer(
    data: DataConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    messages = [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "Bye"),
        ("assistant", "See you."),
    ]
    chats = [messages, messages[:4]]
    records = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in chats]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = Source(str(tmp_path / "chat.jsonl"), field="messages")
    (corpus,) = open_corpora(DataConfig((source,), cache=data.cache), tokenizer)
    expected = []
    for role, text in messages:
        expected += [tokenizer.roles[role], *tokenizer.encode(text), *[tokenizer.end_id] * (role == "assistant")]
    assert document(corpus, 0) == expected
    assert document(corpus, 1) == [*expected[: -2 - len(tokenizer.encode("See you."))], tokenizer.end_id]
    assert corpus.bytes[0] == sum(len(text) for _, text in messages)


def test_a_pair_keeps_the_length_of_its_prompt_and_counts_the_response_alone(
    data: DataConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    records = [
        {"prompt": "the größe of the cat?", "response": "größer"},
        {"text": "the cat"},
        {"prompt": "", "response": "x"},
        {"prompt": "word " * 6000, "response": "a long prompt is not cut"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (corpus,) = open_corpora(data, tokenizer)
    prompts = [tokenizer.encode(record.get("prompt", "")) for record in records]
    assert corpus.prompts.tolist() == [len(prompt) for prompt in prompts]
    for number, (prompt, record) in enumerate(zip(prompts, records, strict=True)):
        answer = tokenizer.encode(record.get("response", record.get("text", "")))
        assert document(corpus, number) == [*prompt, *answer, tokenizer.end_id]
    assert corpus.bytes.tolist() == [8, 7, 1, 24]
    assert len(set(corpus.hashes.tolist())) == 4


def test_a_long_text_is_cut_between_paragraphs_and_only_its_last_part_ends(
    data: DataConfig, tokenizer: Tokenizer, stories: list[str], tmp_path: Path
) -> None:
    text = "\n\n".join(stories)
    (tmp_path / "book.txt").write_text(text)
    (corpus,) = open_corpora(DataConfig((Source(str(tmp_path / "book.txt")),), cache=data.cache), tokenizer)
    parts = [document(corpus, number) for number in range(len(corpus.bytes))]
    assert len(parts) > 5 and len(corpus.held_out)
    assert [part[-1] == tokenizer.end_id for part in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(map(tokenizer.decode, parts)) == text and corpus.bytes.sum() == len(text)


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 95, "ab " * 40, "line\n" * 30, "para graph\n\n" * 20, "y" * 33 + "\n"]
)
def test_sections_lose_nothing_and_stay_short(text: str) -> None:
    found = sections(text, 32)
    assert "".join(found) == text and all(len(section) <= 32 for section in found)
    assert all(found) or text == ""
    if "\n\n" in text:
        assert all(section.endswith("\n\n") for section in found)


def test_a_large_vocabulary_is_stored_in_four_bytes(data: DataConfig, tokenizer: Tokenizer) -> None:
    class Large(Tokenizer):
        """Ids beyond 16 bits, as a vocabulary of a hundred thousand has them."""

        def encode_batch(self, texts: Any, *, continued: bool = False) -> list[list[int]]:
            return [[token + 70_000 for token in ids] for ids in super().encode_batch(texts)]

    large = Large.from_json(tokenizer.to_json())
    large.vocab_size, large.fingerprint = 100_000, "large"
    (corpus,) = open_corpora(data, large)
    assert corpus.tokens.dtype == np.uint32 and corpus.tokens.max() > 70_000
