"""What users said as things to learn: answers to give, and of two answers the better one.

- A correction is an answer to learn, and better than what it corrects.
- A preference says which of two answers to the same prompt is better.
- Thumbs and ratings are votes on a text: one that is liked on the whole is an answer to learn, with less weight than
  one that somebody wrote, and better than one that is disliked.

Who says something again about the same text has changed their mind: the last word counts, and however often somebody
says the same, it counts once. People who contradict each other cancel out. Feedback without an owner counts as somebody
else's for each response.
"""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from sfumato.data.cache import digest
from sfumato.store.records import Feedback, Response
from sfumato.text.chat import ROLES
from sfumato.text.tokenizer import check_text

Record = tuple[Feedback, Response, Response | None]
Redact = Callable[[str], str]
VOTE = 0.5  # the weight of a thumb beside that of a correction
MOST_CORRECTION, MOST_VOTES = 3.0, 1.0  # however many people agree


@dataclass(frozen=True)
class Item:
    """Something to learn."""

    id: str
    """Digest of the prompt and the texts."""
    kind: str
    """answer or pair."""
    prompt: Any = ""
    """The messages of a conversation, or a text."""
    response: str = ""
    """answer: what to say."""
    chosen: str = ""
    """pair: the better answer."""
    rejected: str = ""
    """pair: the other one."""
    weight: float = 1.0
    origins: tuple[str, ...] = ()
    """Ids of the feedback."""
    latest: str = ""
    """When the last of it was given, ISO 8601."""
    keep: bool = True
    """A person may set it to false."""

    @property
    def opening(self) -> str:
        """What decides whether it is held out: the user's first words, so that no later turn of a talk crosses over."""
        return opening(self.prompt)


@dataclass
class Gathered:
    """The items, and what became of the feedback that gave none."""

    items: list[Item] = field(default_factory=list)
    read: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """How much feedback was not used, by reason."""
    cursor: tuple[str, str] = ("", "")
    """Time and id of the last feedback that was read."""
    first: str = ""
    """Time of the first."""


class _Said(NamedTuple):
    """Weight so far, ids of the feedback behind it, the time of the last, and what each person's word weighs."""

    weight: float = 0.0
    origins: tuple[str, ...] = ()
    latest: str = ""
    people: Mapping[str, float] = MappingProxyType({})

    def more(self, weight: float, feedback: Feedback) -> "_Said":
        """Who said something about the same text before, of whichever response, replaces that."""
        origins = self.origins if feedback.id in self.origins else (*self.origins, feedback.id)
        people = {**self.people, feedback.owner or feedback.response_id: weight}  # nobody is known by no name
        return _Said(sum(people.values()), origins, max(self.latest, _time(feedback.created)), people)

    def capped(self, most: float) -> "_Said":
        return self._replace(weight=min(self.weight, most))


def gather(
    records: Iterable[Record],
    *,
    kind: str = "chat",
    models: Collection[str] = (),
    redact: Redact = lambda text: text,
) -> Gathered:
    """Turn feedback into items.

    Args:
        records: as the store reads them, oldest first.
        kind: of the requests that the model can learn from: chat, or completion.
        models: only feedback about these; none = about all.
        redact: is given every text, and returns what may be kept of it.
    """
    found = Gathered()
    last: dict[tuple[Any, ...], Record] = {}
    for record in records:
        feedback = record[0]
        found.read += 1
        found.first = found.first or _time(feedback.created)
        found.cursor = _time(feedback.created), feedback.id
        key = feedback.owner, feedback.kind, frozenset(feedback.about)
        found.left_out["somebody's last word replaced it"] += key in last
        last.pop(key, None)
        last[key] = record
    opinions = _Opinions()
    for record in last.values():
        if why := _unfit(record, kind, models) or opinions.take(*record, redact):
            found.left_out[why] += 1
    found.left_out = +found.left_out
    found.items = opinions.items()
    return found


def opening(prompt: Any) -> str:
    """The user's first words, without what does not matter: case, spaces, and forms of characters."""
    text = prompt
    if not isinstance(prompt, str):
        text = next((message["content"] for message in prompt if message["role"] == "user"), "")
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _unfit(record: Record, kind: str, models: Collection[str]) -> str:
    feedback, response, over = record
    if any(one.kind != kind for one in (response, over) if one):
        return f"not about a {kind}"
    if models and not any(one.model in models for one in (response, over) if one):
        return "about another model"
    if over and over.prompt != response.prompt:
        return "the texts answer different prompts"
    if kind == "chat" and not _is_conversation(response.prompt):
        return "not a conversation"
    return "" if kind == "chat" or isinstance(response.prompt, str) else "not a text"


def _is_conversation(prompt: Any) -> bool:
    if not isinstance(prompt, list) or not prompt:
        return False
    for message in prompt:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return False
        if not isinstance(message.get("content"), str):
            return False
    return prompt[-1]["role"] != "assistant"


class _Opinions:
    """What is thought of the texts, prompt by prompt."""

    def __init__(self) -> None:
        self.prompts: dict[str, Any] = {}
        self.corrections: dict[tuple[str, str], _Said] = defaultdict(_Said)
        self.votes: dict[tuple[str, str], _Said] = defaultdict(_Said)
        self.pairs: dict[tuple[str, str, str], _Said] = defaultdict(_Said)

    def take(self, feedback: Feedback, response: Response, over: Response | None, redact: Redact) -> str:
        """Count one feedback; why not, or nothing."""
        prompt = _redacted(response.prompt, redact)
        text, other = redact(response.completion).strip(), redact(over.completion).strip() if over else ""
        correction = redact(feedback.correction or "").strip()
        texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
        try:
            for one in (*texts, text, other, correction):
                check_text(one)
        except ValueError:
            return "characters that no text may hold"
        key = json.dumps(prompt, ensure_ascii=False, sort_keys=True)
        self.prompts[key] = prompt
        match feedback.kind:
            case "correction" if not correction:
                return "an empty correction"
            case "correction" if correction != text:
                self.corrections[key, correction] = self.corrections[key, correction].more(1.0, feedback)
                self._prefer(key, correction, text, 1.0, feedback)
            case "preference" if text == other:
                return "both texts are the same"
            case "preference":
                self._prefer(key, text, other, 1.0, feedback)
            case _:  # a text that is "corrected" to itself is approved
                value = feedback.value or 0
                vote = {"thumb": value, "rating": (value - 3) / 2, "correction": 1}[feedback.kind]
                self.votes[key, text] = self.votes[key, text].more(VOTE * vote, feedback)
        return ""

    def items(self) -> list[Item]:
        """What follows from all of it, in an order that depends on the items alone."""
        good = {place: said.capped(MOST_CORRECTION) for place, said in self.corrections.items()}
        for place, said in self.votes.items():
            before = good.get(place, _Said())
            weight = before.weight + min(said.weight, MOST_VOTES)
            good[place] = _Said(weight, (*before.origins, *said.origins), max(before.latest, said.latest))
        answers = [self._answer(*place, said) for place, said in good.items() if said.weight > 0 and place[1]]
        pairs = [self._pair(*place, said) for place, said in self._all_pairs().items()]
        return sorted([*answers, *pairs], key=lambda item: item.id)

    def _prefer(self, key: str, better: str, worse: str, weight: float, feedback: Feedback) -> None:
        self.pairs[key, better, worse] = self.pairs[key, better, worse].more(weight, feedback)

    def _all_pairs(self) -> dict[tuple[str, str, str], _Said]:
        """Pairs that people made, and those of a liked with a disliked text; what speaks against a pair counts."""
        found = dict(self.pairs)
        of_prompt: dict[str, list[tuple[str, _Said]]] = defaultdict(list)
        for (key, text), said in self.votes.items():
            of_prompt[key].append((text, said))
        for key, voted in of_prompt.items():
            for better, praise in voted:
                for worse, blame in voted:
                    if praise.weight > 0 > blame.weight:
                        before = found.get((key, better, worse), _Said())
                        origins = tuple(dict.fromkeys((*before.origins, *praise.origins, *blame.origins)))
                        latest = max(before.latest, praise.latest, blame.latest)
                        found[key, better, worse] = _Said(before.weight + VOTE, origins, latest)
        net = {}
        for (key, better, worse), said in found.items():
            against = found.get((key, worse, better), _Said()).weight
            if said.weight > against and better and worse:
                net[key, better, worse] = said._replace(weight=said.weight - against).capped(MOST_CORRECTION)
        return net

    def _answer(self, key: str, text: str, said: _Said) -> Item:
        weight, origins, latest, _ = said
        return Item(_id("answer", key, text), "answer", self.prompts[key], text, "", "", weight, origins, latest)

    def _pair(self, key: str, better: str, worse: str, said: _Said) -> Item:
        weight, origins, latest, _ = said
        identity = _id("pair", key, better, worse)
        return Item(identity, "pair", self.prompts[key], "", better, worse, weight, origins, latest)


def _redacted(prompt: Any, redact: Redact) -> Any:
    if isinstance(prompt, str):
        return redact(prompt)
    return [{"role": message["role"], "content": redact(message["content"])} for message in prompt]


def _id(*parts: str) -> str:
    return f"{digest(parts):016x}"


def _time(moment: datetime) -> str:
    return moment.isoformat()
