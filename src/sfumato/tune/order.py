"""In which order numbered examples are taken: without end, shuffled anew in each epoch."""

from typing import Any

import torch

from sfumato import rng
from sfumato.data.sources import DataError

_SHUFFLE = 51  # draw purpose


class Order:
    """The numbers 0 to count - 1, as a function of the seed and of how many have been taken, which is all its state."""

    def __init__(self, count: int, seed: int, key: str = ""):
        """A fresh order.

        Args:
            count: of the examples.
            seed: of the shuffling.
            key: a digest of the examples; who goes on with others is told.
        """
        self.count, self.seed, self.key, self.taken = count, seed, key, 0

    def take(self, number: int) -> list[int]:
        """The next ones."""
        found: list[int] = []
        while len(found) < number:
            epoch, place = divmod(self.taken, self.count)
            order_N = rng.uniform(self.seed, epoch, torch.arange(self.count), _SHUFFLE).argsort()
            new = order_N[place : place + number - len(found)].tolist()
            found += new
            self.taken += len(new)
        return found

    def state(self) -> dict[str, Any]:
        """Where it is."""
        return {"taken": self.taken, "key": self.key}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DataError: the examples have changed since.
        """
        if state["key"] != self.key:
            raise DataError("the training data is not what it was when this run stopped; restore it or start a new run")
        self.taken = state["taken"]
