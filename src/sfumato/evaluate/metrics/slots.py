"""How many of the attributes that a description was to convey can be found in it (E2E; Dusek et al. 2020, 1901.07931).

Names and places must appear as they are. For a family friendly place, a rating and a price, whose wordings differ,
the words that people use are listed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure, mean

FIELD = "mr"
_FAMILY = r"(famil|kid|child)"
_NOT = r"(not|no|non|isn't|doesn't|adults?|unfriendly|without)"
_NO_FAMILY = rf"{_NOT}\b.{{0,40}}\b{_FAMILY}|{_FAMILY}.{{0,25}}\b{_NOT}\b|adults"
_GOOD = r"(high|good|excellent|great)"
_RATED = rf"{_GOOD}(ly)?([- ](customer|rat)|\b.{{0,20}}\brat)|well[- ]rated|rat(ed|ing).{{0,20}}\b{_GOOD}"
_BAD = r"(low|poor|bad)"
_RATED_BAD = rf"{_BAD}(ly)?([- ](customer|rat)|\b.{{0,20}}\brat)|rat(ed|ing).{{0,20}}\b{_BAD}"
_OUT_OF = r"\b.{0,12}\b(5|five|stars?)\b"
WORDS = {
    ("familyfriendly", "yes"): rf"^(?!.*\b({_NO_FAMILY})).*\b{_FAMILY}",
    ("familyfriendly", "no"): _NO_FAMILY,
    ("pricerange", "cheap"): r"cheap|low[- ]?(cost|price)|inexpensive|affordable",
    ("pricerange", "moderate"): r"moderate|mid|average|reasonabl",
    ("pricerange", "high"): r"high(er)?[- ](end|cost|pric)|expensive|pric[ey]y?\b.{0,12}\bhigh|pricey",
    ("pricerange", "less than £20"): r"(less than|under|below|cheaper).{0,12}20\b|cheap|low[- ](cost|pric)",
    ("pricerange", "£20-25"): r"20.{0,8}25\b|moderate|average pric|mid",
    ("pricerange", "more than £30"): r"(more than|over|above|start).{0,12}30\b|expensive|high[- ](end|cost|pric)",
    ("customerrating", "low"): rf"{_RATED_BAD}|(1|one){_OUT_OF}",
    ("customerrating", "average"): rf"average|decent|medium|mid|(3|three){_OUT_OF}",
    ("customerrating", "high"): rf"{_RATED}|(5|five){_OUT_OF}",
    ("customerrating", "1 out of 5"): rf"(1|one){_OUT_OF}|{_RATED_BAD}",
    ("customerrating", "3 out of 5"): rf"(3|three){_OUT_OF}|average|decent",
    ("customerrating", "5 out of 5"): rf"(5|five){_OUT_OF}|{_RATED}",
    ("eattype", "coffee shop"): r"coffee|caf[eé]",
    ("area", "city centre"): r"(city )?cent(re|er)|downtown|city",
}


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Share of each record's attributes that its answer conveys, and share of the answers that convey all; percent."""
    shares = []
    for answer, record in zip(answers, found, strict=True):
        wanted = record.get(FIELD)
        if not isinstance(wanted, Mapping) or not wanted:
            raise ValueError(f"slots: expected records with attributes and values as {FIELD!r}, got {wanted!r:.60}")
        shares.append(sum(conveyed(answer, name, str(value)) for name, value in wanted.items()) / len(wanted))
    return {"slots": mean(shares), "all_slots": mean([float(share == 1) for share in shares])}


def conveyed(answer: str, name: str, value: str) -> bool:
    """Whether a text conveys an attribute."""
    value = value.lower().replace("£ ", "£")
    text = " ".join(answer.lower().replace("£ ", "£").split())
    words = WORDS.get((name.lower().replace(" ", ""), value))
    if words is None:
        return value in text
    return re.search(words if words.startswith("^") else rf"\b(?:{words})", text) is not None
