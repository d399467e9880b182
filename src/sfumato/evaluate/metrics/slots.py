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
_NOT = r"(not|n't|no|non|isn't|adult|unfriendly|without)"
WORDS = {
    ("familyfriendly", "yes"): _FAMILY,
    ("familyfriendly", "no"): rf"{_NOT}\b.{{0,40}}{_FAMILY}|{_FAMILY}.{{0,25}}\b{_NOT}|adults",
    ("pricerange", "cheap"): r"cheap|low[- ]?(cost|price)|inexpensive|affordable",
    ("pricerange", "moderate"): r"moderate|mid|average|reasonabl",
    ("pricerange", "high"): r"high|expensive|pric[ey]",
    ("pricerange", "less than £20"): r"(less than|under|below|cheaper).{0,12}20|cheap|low",
    ("pricerange", "£20-25"): r"20.{0,8}25|moderate|average|mid",
    ("pricerange", "more than £30"): r"(more than|over|above|start).{0,12}30|expensive|high",
    ("customerrating", "low"): r"low|poor|bad|1 (out|star)|one",
    ("customerrating", "average"): r"average|decent|3|three|medium|mid",
    ("customerrating", "high"): r"high|excellent|good|well|great|5|five",
    ("customerrating", "1 out of 5"): r"(1|one).{0,12}(5|five|star)|low|poor|bad",
    ("customerrating", "3 out of 5"): r"(3|three).{0,12}(5|five|star)|average|decent",
    ("customerrating", "5 out of 5"): r"(5|five).{0,12}(5|five|star)|high|excellent",
    ("eattype", "coffee shop"): r"coffee|caf[eé]",
    ("area", "city centre"): r"cent(re|er)|downtown|city",
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
    pattern = WORDS.get((name.lower().replace(" ", ""), value), re.escape(value))
    return re.search(pattern, " ".join(answer.lower().replace("£ ", "£").split())) is not None
