"""British and American spelling: which of them a text has, and the same text in the other.

The pairs of words are those of `breame` (Apache-2.0), after the "comprehensive list of American and British spelling
differences" (tysto.com), as far as each word has exactly one partner. Pairs are left out where a word of one side is
just as good, or means something else, on the other ("draft", "program", "practice", "install", "dialogue").
"""

import re
from functools import cache

from sfumato.data.care.seam import missing

VARIANTS = ("british", "american")
_WORD = re.compile(r"[A-Za-z]+")
_NOT_TOLD_APART = frozenset(
    """accoutrements aeon aeons aesthete aesthetes aesthetic aesthetically aesthetics anaesthetize anaesthetized
    anaesthetizes anaesthetizing analogue analogues analyses appal appals archaeological archaeologically
    archaeologist archaeologists archaeology axe bannister bannisters battleaxe baulk baulked baulking baulks
    bevvies bevvy biassed biassing bingeing breathalyses buses busing cancellation cancellations catalyses chimaera
    chimaeras colourize colourized colourizes colourizing connexion connexions dialogue dialogues disc discs draught
    draughtboard draughtboards draughts epilogue epilogues fillet filleted filleting fillets gases gauge gauged
    gauges gauging gipsies glueing groyne groynes gryphon gryphons inflexion inflexions instal instals judgement
    kerb kerbs licence licenced licences licencing likeable mediaeval minibuses misspelt monologue monologues
    moulder mouldered mouldering moulders omelette omelettes paralyses philtre philtres phoney pouffe pouffes
    practise practised practises practising praesidium praesidiums programme programmes prologue prologues pummelled
    pummelling pzazz recognisance rouble roubles saleable savouries sceptic sceptics sheikh sizeable snowploughs
    storey storeys swop swopped swopping swops syphon syphoned syphoning syphons tonne tonnes tranquillize
    tranquillized tranquillizer tranquillizers tranquillizes tranquillizing tranquilly travelogue travelogues tyre
    tyres usable whiskies whisky woollies woolly worshipped worshipper worshipping""".split()
)


def respelled(text: str, variant: str) -> str:
    """The text in British or American spelling; words keep their case.

    Args:
        text: any; what is not in the list of words stays.
        variant: british or american.

    Raises:
        DataError: `breame` is not installed.
        ValueError: an unknown variant.
    """
    words = _words(variant)

    def other(found: re.Match[str]) -> str:
        word = words.get(found[0].lower())
        if word is None:
            return found[0]
        return word.upper() if found[0].isupper() else word.capitalize() if found[0][0].isupper() else word

    return _WORD.sub(other, text)


def variant_of(text: str) -> str:
    """The variant that more of its words belong to; "" where that is neither.

    Raises:
        DataError: `breame` is not installed.
    """
    to_british, to_american = _words("british"), _words("american")
    words = [word.lower() for word in _WORD.findall(text)]
    lead = sum(word in to_american for word in words) - sum(word in to_british for word in words)
    return "british" if lead > 0 else "american" if lead < 0 else ""


@cache
def _words(variant: str) -> dict[str, str]:
    """From each word of the other variant to that of this one."""
    if variant not in VARIANTS:
        raise ValueError(f"spelling: expected {' or '.join(VARIANTS)}, got {variant!r}")
    try:
        from breame.data.spelling_constants import AMERICAN_ENGLISH_SPELLINGS, BRITISH_ENGLISH_SPELLINGS
    except ImportError:
        raise missing("breame", "telling spellings apart") from None
    pairs = {
        british: american
        for british, american in BRITISH_ENGLISH_SPELLINGS.items()
        if AMERICAN_ENGLISH_SPELLINGS.get(american) == british and british not in _NOT_TOLD_APART
    }
    return pairs if variant == "american" else {american: british for british, american in pairs.items()}
