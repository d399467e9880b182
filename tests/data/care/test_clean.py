from sfumato.data.care.clean import Care, CareReport, record
from sfumato.data.care.duplicates import Exact
from sfumato.data.care.filters import Length
from sfumato.data.care.language import Languages
from sfumato.data.sources import Pair


class Hide:
    """A user's own redactor."""

    name = "hidden"

    def __call__(self, text: str) -> str:
        return text.replace("Tom", "[name]")


CHAT = (("user", "Who is Tom?"), ("assistant", "A boy."))
DOCUMENTS = ["Tom ran.", "Tom ran.", Pair("Who?", "Tom."), CHAT, "no", "The dog."]


def test_documents_are_changed_then_tested_and_counted():
    report = CareReport()
    care = Care([Hide()], [Length(3), Exact()], None)
    found = [document for document, _ in care(DOCUMENTS, report, "x.jsonl")]
    chat = (("user", "Who is [name]?"), ("assistant", "A boy."))
    assert found == ["[name] ran.", Pair("Who?", "[name]."), chat, "The dog."]
    assert (report.documents, report.kept) == (6, 4)
    assert report.changed == {"hidden": 4} and report.dropped == {"length": 1, "duplicate": 1}
    assert report.examples["duplicate"] == ["x.jsonl, document 2: the same text came before: '[name] ran.'"]
    assert report.examples["length"] == ["x.jsonl, document 5: 2 characters: 'no'"]
    assert len(report.examples["hidden"]) == 3
    assert report.examples["hidden"][0] == "x.jsonl, document 1: 'Tom ran.' -> '[name] ran.'"
    assert report.characters == 8 + 8 + 9 + 18 + 2 + 8
    assert report.characters_kept == 11 + 12 + 21 + 8


def test_each_document_comes_with_its_language():
    english, german = "The dogs ran over the green field.", "Die Hunde liefen über das grüne Feld."
    report = CareReport()
    found = Care(languages=Languages())([english, german, "ab"], report, "x")
    assert [language for _, language in found] == ["en", "de", ""]
    assert report.languages == {"en": 1, "de": 1, "": 1}


def test_one_document_is_read_at_a_time():
    care, report = Care([Hide()], [Exact()]), CareReport()
    endless = care((f"Tom {n}" for n in iter(int, 1)), report, "x")
    assert next(endless)[0] == "[name] 0"
    assert report.documents == 1


def test_records_can_be_read_again():
    assert [record(one) for one in ("a", Pair("b", "c"), (("user", "d"),))] == [
        {"text": "a"},
        {"prompt": "b", "response": "c"},
        {"messages": [{"role": "user", "content": "d"}]},
    ]
