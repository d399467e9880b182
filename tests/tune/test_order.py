"""The order of examples: all of them in each epoch, and the same after a restart."""

import pytest

from sfumato.data.sources import DataError
from sfumato.tune.order import Order


def test_every_epoch_holds_every_example_in_an_order_of_its_own():
    order = Order(7, seed=3)
    taken = [i for _ in range(7) for i in order.take(3)]
    epochs = [taken[begin : begin + 7] for begin in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert Order(7, seed=3).take(21) == taken and Order(7, seed=4).take(21) != taken


def test_it_goes_on_where_it_was():
    order, again = Order(5, 1, "key"), Order(5, 1, "key")
    order.take(8)
    again.restore(order.state())
    assert again.take(9) == order.take(9)
    with pytest.raises(DataError, match="not what it was"):
        Order(5, 1, "other").restore(order.state())
