"""From causal to what it becomes, little by little."""

import math

import pytest
import torch

from sfumato.canvas import Where
from sfumato.model.annealed import Annealed
from sfumato.model.layout import Block, Causal, Full, Layout, two_streams, visible

LENGTH = 96
PLACE = torch.arange(LENGTH)[None]
# two documents and some padding
PACKED = Where(
    torch.tensor([[*range(50), *range(40), *[-1] * 6]]), torch.tensor([[0] * 50 + [1] * 40 + [-1] * 6]), PLACE // 4
)


def seen(layout: Layout, where: Where) -> torch.Tensor:
    found = visible(layout, where, where)
    assert found is not None
    return found


def both_streams() -> Where:
    return two_streams(PLACE, PLACE, PACKED, torch.zeros(1, LENGTH), torch.arange(1))[1]


def test_at_first_it_is_causal() -> None:
    assert torch.equal(seen(Annealed(Full(), 0.0, 7), PACKED), seen(Causal(), PACKED))
    where = both_streams()
    later = where.position_BQ[:, :, None] < where.position_BQ[:, None]
    assert torch.equal(seen(Annealed(Block(), 0.0, 7), where), seen(Block(), where) & ~later)


@pytest.mark.parametrize(("layout", "where"), [(Full(), PACKED), (Block(), both_streams())], ids=["full", "block"])
def test_in_the_end_it_is_what_it_becomes(layout: Layout, where: Where) -> None:
    assert torch.equal(seen(Annealed(layout, 1.0, 7), where), seen(layout, where))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_in_between_that_share_of_what_comes_later_is_seen(share: float) -> None:
    where = Where(PLACE, None)
    found = seen(Annealed(Full(), share, 3), where)
    later = torch.ones(LENGTH, LENGTH).triu(1).bool()
    assert found[0][~later].all()
    count = int(later.sum())
    assert abs(float(found[0][later].double().mean()) - share) < 4.5 * math.sqrt(share * (1 - share) / count)
    assert not torch.equal(found, seen(Annealed(Full(), share, 4), where))
    more = seen(Annealed(Full(), min(1.0, share + 0.1), 3), where)
    assert (more | ~found).all()  # with one seed, what is seen stays seen


def test_it_is_called_what_it_becomes() -> None:
    assert (Annealed(Block(4), 0.5, 0).name, Annealed(Block(4), 0.5, 0).two_streams) == ("block", True)
    assert (Annealed(Full(), 0.5, 0).name, Annealed(Full(), 0.5, 0).two_streams) == ("full", False)
