"""A file that is only appended to survives whatever happens to its writer."""

import pytest

from sfumato.sample.journal import Journal

RECORDS = [{"a": 1, "text": "größer\n„so“"}, {"a": [1, {"b": 2.5}, None]}, {"lone": "\ud800", "a": {}}]


def test_what_is_added_is_there_when_it_is_opened_again(tmp_path):
    for i, record in enumerate(RECORDS):
        with Journal(tmp_path / "deep" / "log.jsonl", "a") as journal:
            assert journal.there == RECORDS[:i]
            journal.add(record)
    with Journal(tmp_path / "deep" / "log.jsonl", "a") as journal:
        assert journal.there == RECORDS
    assert "größer" in (tmp_path / "deep" / "log.jsonl").read_text(encoding="utf-8")


def test_wherever_it_was_cut_off_the_whole_lines_stay(tmp_path):
    path = tmp_path / "log.jsonl"
    with Journal(path, "a") as journal:
        for record in RECORDS:
            journal.add(record)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        with Journal(path, "a") as journal:
            there = content[:size].count(b"\n")
            assert journal.there == RECORDS[:there]
            for record in RECORDS[there:]:
                journal.add(record)
        assert path.read_bytes() == content


def test_a_block_of_zeros_at_the_end_is_taken_away(tmp_path):
    path = tmp_path / "log.jsonl"
    with Journal(path, "a") as journal:
        journal.add({"a": 1})
    whole = path.read_bytes()
    for zeros in (b"\0" * 40, b"\0" * 40 + b"\n"):
        path.write_bytes(whole + zeros)
        Journal(path, "a").close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b"\n", b"\xff\n", b'{"b": 1}\n'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path, line: bytes):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'{"a": 2}\n')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"log\.jsonl:2: not a line that was written here .* name another file"):
        Journal(path, "a")
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"a note", b'{"report": 1}', b'{"a": 1}\n{"b": 2}', b"[1, 2"])
def test_the_end_of_a_file_of_somebody_else_is_not_taken_for_a_torn_line(tmp_path, content: bytes):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes:[12]: not a line that was written here"):
        Journal(path, "a")
    assert path.read_bytes() == content


def test_two_do_not_write_at_once(tmp_path):
    path = tmp_path / "log.jsonl"
    with Journal(path, "a") as journal:
        journal.add({"a": 1})
        with pytest.raises(ValueError, match=r"log\.jsonl: another process is writing it"):
            Journal(path, "a")
    Journal(path, "a").close()
    assert path.read_text() == '{"a": 1}\n'
