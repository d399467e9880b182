"""What a policy is asked: problems of a task, made as they are needed, or the prompts of the data.

A problem's number counts on from 0 under the recipe's seed; what is held out, as what `sfumato task` scores a model on,
is made under the complement of a seed, which no training ever has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sfumato.config import ConfigError, Recipe
from sfumato.data.cache import digest
from sfumato.data.sources import Chat, DataError, Document, Pair, Report, documents
from sfumato.evaluate.tasks.problem import Problem, Task
from sfumato.sample.front import Front
from sfumato.text.prompt import Row
from sfumato.tune.order import Order
from sfumato.tune.rewards import Record

_ROOM = 64  # tokens for an answer that nothing is known about


class Prompts(Protocol):
    """Records to ask for, without end."""

    @property
    def in_place(self) -> bool:
        """Whether they are texts with holes, else texts to continue."""
        ...

    def take(self, number: int) -> list[Record]:
        """The next ones."""
        ...

    def held_out(self, number: int) -> list[Record]:
        """So many, at most, that training never asks."""
        ...

    def state(self) -> dict[str, Any]:
        """Where they are."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken. DataError: they have changed since."""
        ...


@dataclass
class Problems:
    """Problems of a task, each asked once."""

    task: Task
    seed: int
    taken: int = 0

    @property
    def in_place(self) -> bool:
        """Whether the task's problems are."""
        return bool(self.task.make(1, ~self.seed)[0].template)

    def take(self, number: int) -> list[Record]:
        """The next ones."""
        self.taken += number
        return [_record(problem) for problem in self.task.make(number, self.seed, self.taken - number)]

    def held_out(self, number: int) -> list[Record]:
        """Made under the complement of the seed."""
        return [_record(problem) for problem in self.task.make(number, ~self.seed)] if number else []

    def state(self) -> dict[str, Any]:
        """How many were taken."""
        return {"taken": self.taken}

    def restore(self, state: dict[str, Any]) -> None:
        """Count on."""
        self.taken = state["taken"]


class Listed:
    """Prompts of the data, shuffled anew in each epoch."""

    in_place = False

    def __init__(self, records: Sequence[Record], held_out: float, seed: int):
        """A fresh order of the records; which are held out depends on each one's text alone.

        Raises:
            DataError: nothing is left to ask.
        """
        hashes = [digest([repr(record.get("prompt", record.get("messages")))]) for record in records]
        limit = int(held_out * 2.0**64)
        self._asked = [record for record, hashed in zip(records, hashes, strict=True) if hashed >= limit]
        self._kept = [record for record, hashed in zip(records, hashes, strict=True) if hashed < limit]
        if not self._asked:
            raise DataError("no prompts to train on; name a reinforce.task, or a source with prompts in data.sources")
        self._order = Order(len(self._asked), seed, f"{digest(map(repr, records)):016x}")

    def take(self, number: int) -> list[Record]:
        """The next ones."""
        return [self._asked[i] for i in self._order.take(number)]

    def held_out(self, number: int) -> list[Record]:
        """The first of those held out."""
        return self._kept[:number]

    def state(self) -> dict[str, Any]:
        """Where the order is."""
        return self._order.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self._order.restore(state)


def prompts_of(recipe: Recipe, task: Task | None) -> Prompts:
    """The problems of the task, else the prompts of `data.sources`.

    Raises:
        ConfigError: neither, or both.
        DataError: nothing to ask.
    """
    if bool(task) == bool(recipe.data.sources):
        raise ConfigError("reinforce.task or data.sources: expected one of the two to say what is asked")
    if task:
        return Problems(task, recipe.seed)
    report = Report(recipe.data.on_error)
    found = [_asked(document) for source in recipe.data.sources for document in documents(source, report)]
    return Listed(found, recipe.data.held_out, recipe.seed)


def row_of(record: Record, front: Front, max_tokens: int) -> Row:
    """The record as a row with room for the answer; in the model's chat template, where it has one.

    Args:
        record: what is asked.
        front: of the model.
        max_tokens: room; 0 = for the known response and the end, or for 64 tokens.

    Raises:
        ValueError: it does not fit the context, or the model knows no conversations.
    """
    if "template" in record:
        return front.row(record["template"], 1, template=True, windows=False)
    known = record.get("response")
    room = max_tokens or (len(front.tokenizer.encode(known)) + 1 if known else _ROOM)
    if "messages" in record or front.chat_template is not None:
        messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
        return front.conversation(messages, room)[0]
    return front.row(record["prompt"], room, windows=False)


def _record(problem: Problem) -> Record:
    return {name: value for name, value in vars(problem).items() if value is not None}


def _asked(document: Document) -> Record:
    if isinstance(document, str):
        return {"prompt": document}
    if isinstance(document, Pair):
        if isinstance(document.prompt, str):
            return {"prompt": document.prompt, "response": document.response}
        return {"messages": _messages(document.prompt), "response": document.response}
    if document[-1][0] != "assistant":
        return {"messages": _messages(document)}
    return {"messages": _messages(document[:-1]), "response": document[-1][1]}


def _messages(turns: Chat) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]
