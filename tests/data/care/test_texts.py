"""Encodings, languages, lengths and repetitions."""

import pytest

from sfumato.data.care.filters import Length, Repetition, repeated
from sfumato.data.care.language import Languages
from sfumato.data.care.repair import Repair

GREEK = "Ένα μικρό αγόρι παίζει στο πάρκο με τους φίλους του."


@pytest.mark.parametrize("text", ["Größe, naïve café — “yes”", GREEK, "ﬁne ＷＩＤＥ 東京 नमस्ते", "a < b && c"])
def test_good_text_is_left_alone_and_what_was_decoded_wrongly_is_put_right(text: str):
    repair = Repair()
    assert repair(text) == text
    assert repair(repair(text)) == repair(text)


def test_wrong_turns_are_undone():
    repair = Repair()
    assert repair("Größe".encode().decode("latin-1")) == "Größe"
    assert repair("The “dog” – naïve".encode().decode("cp1252", "replace")) != ""
    assert repair("cafe\u0301 &amp; more\x07") == "café & more"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("en", "A little boy is playing with his friends in the park."),
        ("de", "Ein kleiner Junge spielt mit seinen Freunden im Park."),
        ("fr", "Un petit garçon joue avec ses amis dans le parc."),
        ("cs", "Malý chlapec si hraje se svými kamarády v parku."),
        ("hi", "एक छोटा लड़का अपने दोस्तों के साथ पार्क में खेल रहा है।"),
        ("el", GREEK),
    ],
)
def test_languages_are_told_apart(code: str, text: str):
    assert Languages().of(text) == code
    assert Languages((code,))(text) == ""
    assert Languages(("zh",))(text) == f"language {code}"


def test_what_is_too_short_to_tell_stays():
    only = Languages(("cs",))
    assert only.of("The dog") == "" == only("The dog") == only("1234567890 " * 9)


def test_unknown_languages_are_refused():
    with pytest.raises(ValueError, match="unknown code 'xx'"):
        Languages(("en", "xx"))


def test_lengths_are_counted_without_space_at_the_ends():
    assert [Length(3, 5)(text) for text in ("  abc  ", "ab ", "abcdef", "abcde")] == [
        "",
        "2 characters",
        "6 characters",
        "",
    ]
    assert Length()("   ") == "0 characters" and Length()("a" * 10**6) == ""


def test_repeated_words_are_those_in_runs_that_came_before():
    five = "the cat sat down here"
    assert repeated(five) == 0
    assert repeated(f"{five} and then {five}") == 5 / 12
    assert repeated("ha " * 100) == pytest.approx(0.99, abs=0.01)
    assert repeated(" ".join(f"w{n}" for n in range(100))) == 0
    assert Repetition(0.5)("ha " * 100).startswith("99%") and Repetition(0.5)(f"{five} and then {five}") == ""
