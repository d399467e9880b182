"""Metrics of answers: known values, and what they refuse."""

import pytest

from sfumato.evaluate.metrics import judge, mean
from sfumato.evaluate.metrics.exact import plain
from sfumato.evaluate.metrics.slots import conveyed

FRENCH = ["Je suis content.", "Il va au parc."]


def test_perfect_answers_have_all_points():
    figures = judge(["bleu", "chrf", "rouge", "exact"], FRENCH, [[one, "Non."] for one in FRENCH], [{}, {}])
    assert set(figures) == {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact"}
    assert all(figure.value == pytest.approx(100) for figure in figures.values())
    assert "nrefs:" in figures["bleu"].note and "nc:6" in figures["chrf"].note


def test_answers_may_have_different_numbers_of_references():
    from sacrebleu import corpus_bleu

    references = [["Je suis heureux.", "Je suis très content."], ["Elle va au parc."]]
    streams = [["Je suis heureux.", "Elle va au parc."], ["Je suis très content.", None]]
    found = judge(["bleu"], FRENCH, references, [{}, {}])["bleu"]
    assert found.value == pytest.approx(corpus_bleu(FRENCH, streams).score) and found.stderr > 0


def test_answers_that_have_nothing_right_have_an_error_too():
    figure = judge(["chrf"], ["xyz", "Il va", "?"], [["Non."], ["Il va au parc."], ["Oui."]], [{}] * 3)["chrf"]
    assert figure.value > 0 and figure.stderr > 0


def test_exact_looks_past_case_and_punctuation():
    assert plain("  The Cat's, hat! ") == "the cat s hat"
    assert judge(["exact"], ["The tree.", "a"], [["tree", "the tree"], ["b"]], [{}, {}])["exact"].value == 50


def test_coverage_goes_by_stems():
    found = [{"concepts": ["dog", "run"]}, {"concepts": ["tree"]}]
    assert judge(["coverage"], ["The dogs are running.", "A bush."], [[""], [""]], found)["coverage"].value == 50
    with pytest.raises(ValueError, match="coverage: expected records with a list of words as 'concepts'"):
        judge(["coverage"], ["a"], [["a"]], [{}])


@pytest.mark.parametrize(
    ("name", "value", "text", "right"),
    [
        ("name", "The Vaults", "the vaults is a pub", True),
        ("name", "The Vaults", "The Vault is a pub", False),
        ("familyFriendly", "yes", "A child friendly pub", True),
        ("familyFriendly", "no", "It is not family-friendly.", True),
        ("familyFriendly", "no", "It is family-friendly.", False),
        ("priceRange", "more than £ 30", "Prices start at £ 30.", True),
        ("customerrating", "5 out of 5", "It has a 5 star rating.", True),
        ("customerrating", "1 out of 5", "It has a 5 star rating.", False),
        ("familyFriendly", "yes", "It is not family-friendly.", False),
        ("customerrating", "low", "Call us by phone, it is below the bridge.", False),
        ("customerrating", "high", "Its prices are high.", False),
        ("customerrating", "high", "It has a high customer rating.", True),
        ("priceRange", "high", "It has a high customer rating.", False),
        ("priceRange", "high", "It is in the high price range.", True),
        ("customerrating", "3 out of 5", "Meals cost £ 23.", False),
    ],
)
def test_attributes_are_found_in_the_words_of_people(name: str, value: str, text: str, right: bool):
    assert conveyed(text, name, value) == right


def test_slots_count_attributes_and_whole_descriptions():
    found = [{"mr": {"name": "Aromi", "food": "Thai"}}, {"mr": {"name": "Aromi"}}]
    figures = judge(["slots"], ["Aromi has English food.", "Aromi"], [[""], [""]], found)
    assert figures["slots"].value == 75 and figures["all_slots"].value == 50


def test_python_is_parsed_and_never_run(tmp_path):
    there = tmp_path / "made"
    found = [{"before": "def f(x):\n    ", "after": "\n"}] * 3
    answers = ["return x", "return (", f"open({str(there)!r}, 'w')"]
    assert judge(["python"], answers, [[""]] * 3, found)["python"].value == pytest.approx(200 / 3)
    assert not there.exists()


def test_variety_stands_beside_that_of_the_references():
    figures = judge(["variety"], ["a b a b a b a b", "a b"], [["a b c d e"], ["f g"]], [{}, {}])
    assert figures["distinct2"].value == 25 and figures["distinct2"].note == "references 100.0"
    assert figures["repeat4"].value == 60


def test_a_mean_has_the_error_of_its_answers():
    figure = mean([1.0, 0.0, 1.0, 1.0])
    assert (figure.value, figure.stderr) == (75, pytest.approx(25))
    assert mean([1.0]).stderr == 0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("About 95 you now get in .", 26.82782),
        ("About 95 species are now agreed .", 58.89996),
        ("About 95 species are currently agreed .", 50.71609),
    ],
)
def test_sari_is_that_of_its_authors(answer: str, value: float):
    source = "About 95 species are currently accepted ."
    references = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    figure = judge(["sari"], [answer], [references], [{"original": source}])["sari"]
    assert figure.value == pytest.approx(value, abs=1e-4) and figure.note.startswith("copied ")
