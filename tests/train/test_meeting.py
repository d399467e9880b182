"""Processes meet those of their own attempt, whatever earlier ones have left behind."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore, PrefixStore, Store

from sfumato.train.meeting import meet


def together(store: Store, count: int, work: Callable[[PrefixStore, int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda rank: work(meet(store, rank, count), rank), range(count)))


def test_an_attempt_knows_nothing_of_those_before():
    store = HashStore()

    def said(mine: PrefixStore, rank: int) -> bool:
        found = mine.check(["address"])
        if rank == 0:
            mine.wait(["seen"])
            mine.set("address", "of rank 0")
        elif rank == 1:
            mine.set("seen", "")
        mine.wait(["address"])
        return found

    for _ in range(3):
        assert together(store, 3, said) == [False] * 3


def test_the_word_of_a_dead_predecessor_does_no_harm():
    store = HashStore()
    store.set("here/1", "who died")
    assert together(store, 2, lambda mine, rank: mine.add("here", 1) and mine.wait(["here"])) == [None, None]
    assert not store.check(["here"])


def test_who_does_not_come_is_named():
    soon = timedelta(seconds=0.1)
    with pytest.raises(ConnectionError, match=r"process 0 of 3 on \S+: process 1, 2 did not come in 0.1 s; look"):
        meet(HashStore(), 0, 3, soon)
    with pytest.raises(ConnectionError, match=r"process 2 of 3 on \S+: process 0 has not answered in 0.1 s; look"):
        meet(HashStore(), 2, 3, soon)
