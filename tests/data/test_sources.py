import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from sfumato.config import DataConfig, Source
from sfumato.data.sources import DataError, Document, Pair, Report, content_key, documents, labelled, texts


def read(path: Path | str, on_error: str = "stop", **source: Any) -> tuple[list[Document], Report]:
    report = Report(on_error)
    return list(documents(Source(str(path), **source), report)), report


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_a_text_file_is_one_document_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    text = "Erste Zeile.\r\n\r\nनमस्ते 🙂\n\n\nEnd "
    (tmp_path / f"a{suffix}").write_bytes(text.encode())
    assert read(tmp_path / f"a{suffix}")[0] == [text]


def test_json_lines_give_the_named_field(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one", "body": "eins"}, {"text": "two", "body": "zwei"}])
    assert read(path)[0] == ["one", "two"]
    assert read(path, field="body")[0] == ["eins", "zwei"]


def test_blank_lines_blank_texts_and_a_byte_order_mark_are_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n{"text": " "}\n{"text": "two"}')
    found, report = read(path)
    assert found == ["one", "two"] and report.skipped == 0


@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_every_kind_reads_in_every_compression(tmp_path: Path, kind: str, suffix: str) -> None:
    content = (json.dumps({"text": "a tale"}) if kind == ".jsonl" else "a tale").encode()
    if suffix == ".zst":
        content = pytest.importorskip("zstandard").compress(content)
    content = {".gz": gzip.compress, ".xz": lzma.compress}.get(suffix, bytes)(content)
    path = tmp_path / f"a{kind}{suffix}"
    path.write_bytes(content)
    assert read(path)[0] == ["a tale"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_parquet_reads_its_field(tmp_path: Path, suffix: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / f"a.parquet{suffix}"
    found = [f"story {n}" for n in range(3000)]
    with {"": open, ".gz": gzip.open, ".xz": lzma.open}[suffix](path, "wb") as handle:
        parquet.write_table(pyarrow.table({"text": found, "n": list(range(3000))}), handle)
    assert read(path)[0] == found
    with pytest.raises(DataError, match=r"a\.parquet\S*:1: no field 'body'; it has text, n"):
        read(path, field="body")
    with pytest.raises(DataError, match=r"a\.parquet\S*:1: expected a string or a list of messages, got int"):
        read(path, field="n")


def test_a_broken_parquet_file_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=r"a\.parquet:1: unreadable Parquet") as error:
        read(tmp_path / "a.parquet")
    assert "\n" not in str(error.value)


def test_a_folder_is_read_recursively_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.txt", "A.txt", ".hidden/x.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path)[0] == ["A.txt", "a/b/c.txt", "a/z.md", "b.txt"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "cut of', "not JSON"),
        (b'["text"]', "expected a JSON object, got list"),
        (b'{"body": "x"}', "no field 'text'; it has body"),
        (b'{"text": 3}', "expected a string or a list of messages, got int"),
        (b'{"text": null}', "expected a string or a list of messages, got NoneType"),
        (b'{"text": "\xff"}', "not UTF-8 .byte 0xff"),
        (b'{"text": "a\\u0000b"}', ".*NUL"),
        (b'{"text": "a\\ud800b"}', ".*surrogate"),
        (b"[" * 100_000, "(JSON nested too deeply|not JSON)"),
        (b'{"text": [{"role": "user"}]}', "message 0 must have a role and a content string"),
        (b'{"text": [{"role": "robot", "content": "x"}]}', "message 0 has role 'robot'"),
        (b'{"text": [{"role": "user", "content": "a\\u0000"}]}', "message 0: .*NUL"),
        (b'{"prompt": "a", "response": ""}', "response is empty"),
        (b'{"prompt": "a", "response": " "}', "response is empty"),
        (b'{"prompt": "a", "response": null}', "response must be a string, got NoneType"),
        (b'{"prompt": ["a"], "response": "b"}', "prompt: message 0 must have a role and a content string"),
        (b'{"prompt": [], "response": "b"}', "prompt must be a string, got list"),
        (b'{"prompt": 3, "response": "b"}', "prompt must be a string, got int"),
        (b'{"prompt": "a\\u0000", "response": "b"}', "prompt: .*NUL"),
        (b'{"prompt": "a"}', "no field 'text'; it has prompt"),
    ],
)
def test_a_broken_line_stops_at_its_place_or_is_counted(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl:3: {why}") as error:
        read(path)
    assert "\n" not in str(error.value) and "--data.on_error skip" in str(error.value)
    found, report = read(path, "skip")
    assert found == ["one", "two"]
    assert report.skipped == 1 and report.examples[0].startswith(f"{path}:3: ")


@pytest.mark.parametrize("fault", [b"\xff", b"\0"])
def test_a_broken_text_file_names_the_line(tmp_path: Path, fault: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nthr" + fault + b"ee\n")
    (tmp_path / "b.txt").write_text("fine")
    with pytest.raises(DataError, match=r"a\.txt:3: "):
        read(tmp_path)
    found, report = read(tmp_path, "skip")
    assert found == ["fine"] and report.skipped == 1


def test_truncated_compression_is_reported_after_the_last_good_line(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(10_000)))
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    found, report = read(tmp_path / "a.jsonl.gz", "skip")
    assert 0 < len(found) < 10_000 and found == [str(n) for n in range(len(found))]
    assert report.skipped == 1 and "damaged .gz data" in report.examples[0]


def test_only_the_first_examples_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("broken\n" * 50)
    _, report = read(tmp_path / "a.jsonl", "skip")
    assert report.skipped == 50 and len(report.examples) == 5


def test_messages_become_a_chat(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi", "id": 4}, {"role": "assistant", "content": "Hello!"}]
    path = write_lines(tmp_path / "a.jsonl", [{"messages": messages}, {"messages": []}])
    assert read(path, field="messages")[0] == [(("user", "Hi"), ("assistant", "Hello!"))]
    assert list(texts(DataConfig((Source(str(path), field="messages"),)))) == ["Hi\nHello!"]


def test_a_prompt_and_its_response_are_a_pair_unless_the_field_is_there(tmp_path: Path) -> None:
    records = [{"prompt": "1+1=", "response": "2"}, {"prompt": "", "response": "a", "text": "b"}]
    path = write_lines(tmp_path / "a.jsonl", records)
    assert read(path)[0] == [Pair("1+1=", "2"), "b"]
    assert read(path, field="prompt")[0] == ["1+1="]  # what was asked for; the other is blank
    assert list(texts(DataConfig((Source(str(path)),)))) == ["1+1=", "2", "b"]


def test_tables_hold_pairs_too(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"n": [1, 2], "response": ["2", "4"], "prompt": ["1+1=", "2+2="]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    pairs: list[Document] = [Pair("1+1=", "2"), Pair("2+2=", "4")]
    assert read(tmp_path / "a.parquet")[0] == pairs
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved")[0] == pairs


def test_texts_go_through_all_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b.txt").write_text("B")
    assert list(texts(DataConfig((Source(str(tmp_path / "b.txt")), Source(str(tmp_path / "a.txt")))))) == ["B", "A"]


def test_nothing_to_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none: no such file or folder"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match=r"a\.csv: unknown kind of data; expected \.txt, \.md"):
        read(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"empty: no data in this folder"):
        read(tmp_path / "empty")


def test_the_key_follows_content_and_not_names_or_times(tmp_path: Path) -> None:
    for name, text in [("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two"), ("d.md", "one")]:
        (tmp_path / name).write_text(text)
    keys = {name: content_key(Source(str(tmp_path / name))) for name in ("a.txt", "b.txt", "c.txt", "d.md")}
    assert keys["a.txt"] == keys["b.txt"] and len(set(keys.values())) == 3
    assert content_key(Source(str(tmp_path / "a.txt"), field="body")) != keys["a.txt"]
    assert content_key(Source(str(tmp_path / "a.txt"), weight=7)) == keys["a.txt"]


def test_a_saved_dataset_folder_reads_by_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(3)]}) for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "both"))
    parts["test"].save_to_disk(str(tmp_path / "one"))
    assert read(tmp_path / "both")[0] == ["train 0", "train 1", "train 2"]
    assert read(tmp_path / "both", split="test")[0] == read(tmp_path / "one")[0] == ["test 0", "test 1", "test 2"]
    keys = {content_key(Source(str(tmp_path / "both"), split=split)) for split in ("train", "test")}
    assert len(keys) == 2 and content_key(Source(str(tmp_path / "both"))) in keys
    with pytest.raises(DataError, match=r"both:1: no field 'body'; it has text"):
        read(tmp_path / "both", field="body")
    with pytest.raises(DataError, match=r"both \(split dev\): cannot load this dataset") as error:
        read(tmp_path / "both", split="dev")
    assert "\n" not in str(error.value)


def test_a_dataset_by_name_is_loaded_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tales").mkdir()
    write_lines(tmp_path / "tales" / "train.jsonl", [{"text": "one"}, {"text": "two"}])
    assert read(f"hf:{tmp_path / 'tales'}")[0] == ["one", "two"]
    with pytest.raises(DataError, match="hf:./none .split train.: cannot load this dataset"):
        read("hf:./none")


def test_labelled_texts_come_with_their_labels(tmp_path: Path) -> None:
    records = [{"body": "one", "kind": "x"}, {"body": " ", "kind": "y"}, {"body": "two", "kind": 3}]
    assert labelled(str(write_lines(tmp_path / "a.jsonl", records)), "body", "kind") == [("one", "x"), ("two", "3")]


@pytest.mark.parametrize(
    "record", [{"text": "a"}, {"label": "a"}, {"text": "a", "label": 1.5}, {"text": 3, "label": "a"}]
)
def test_a_record_without_text_or_label_is_named(tmp_path: Path, record: dict[str, Any]) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one", "label": "x"}, record])
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        labelled(str(path), "text", "label")


def test_templates_make_pairs_out_of_records(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"en": "Go.", "fr": ["Va !", "Allez !"]}\n{"en": "Run!", "fr": ["Cours !"]}\n', encoding="utf-8")
    source = Source(str(path), prompt="To French: {en}", response="{fr[0]}")
    assert list(documents(source, Report())) == [Pair("To French: Go.", "Va !"), Pair("To French: Run!", "Cours !")]
    assert list(documents(Source(str(path), response="{en} = {fr[0]}"), Report())) == ["Go. = Va !", "Run! = Cours !"]
    assert content_key(source) != content_key(Source(str(path)))


def test_what_a_template_cannot_find_is_told_with_its_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"en": "Go.", "fr": []}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.jsonl:1: fr\[0\]: expected a list that is long enough"):
        list(documents(Source(str(path), prompt="{en}", response="{fr[0]}"), Report()))
    with pytest.raises(DataError, match=r"a.jsonl:1: no field 'de'; it has en, fr"):
        list(documents(Source(str(path), prompt="{en}", response="{de}"), Report()))
