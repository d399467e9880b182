import pytest

from sfumato.data.variants import VARIANTS, _words, respelled, variant_of

BRITISH = "The COLOUR of the harbour is grey; Neighbours travelled to the theatre and realised their favourite dream."
AMERICAN = "The COLOR of the harbor is gray; Neighbors traveled to the theater and realized their favorite dream."


def test_each_spelling_becomes_the_other_and_words_keep_their_case():
    assert respelled(BRITISH, "american") == AMERICAN == respelled(AMERICAN, "american")
    assert respelled(AMERICAN, "british") == BRITISH == respelled(BRITISH, "british")


def test_every_word_of_the_list_comes_back():
    for variant, other in (VARIANTS, VARIANTS[::-1]):
        words = _words(variant)
        assert len(words) > 1400
        for word in words:
            assert respelled(respelled(word, variant), other) == word
            assert variant_of(word) == other and variant_of(respelled(word, variant)) == variant


@pytest.mark.parametrize(
    "text",
    [
        "The program on the disc: a practice dialogue about the draft and the bus; two analyses of a story.",
        "Größe, colón, 123, don't",
        "",
    ],
)
def test_words_that_are_good_on_both_sides_stay(text: str):
    assert respelled(text, "british") == text == respelled(text, "american")
    assert variant_of(text) == ""


def test_a_text_has_the_spelling_of_most_of_its_words():
    assert variant_of(BRITISH) == "british" and variant_of(AMERICAN) == "american"
    assert variant_of("colour color") == "" and variant_of("colour color harbour") == "british"


def test_another_variant_is_refused():
    with pytest.raises(ValueError, match="british or american, got 'scots'"):
        respelled("colour", "scots")
