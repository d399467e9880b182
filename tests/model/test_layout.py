import pytest
import torch

from sfumato.canvas import Where
from sfumato.model.layout import Causal, Full, layout_named

# two documents, of three and two places, and one place of padding
WHERE = Where(torch.tensor([[0, 1, 2, 0, 1, -1]]), torch.tensor([[0, 0, 0, 1, 1, -1]]))


def test_full_sees_its_own_document() -> None:
    visible = Full().visible(WHERE, WHERE)
    assert visible is not None
    expected = ["111000", "111000", "111000", "000110", "000110", "000001"]
    assert visible[0].int().tolist() == [[int(bit) for bit in row] for row in expected]


def test_causal_sees_its_own_document_up_to_itself() -> None:
    visible = Causal().visible(WHERE, WHERE)
    assert visible is not None
    expected = ["100000", "110000", "111000", "000100", "000110", "000001"]
    assert visible[0].int().tolist() == [[int(bit) for bit in row] for row in expected]


def test_rows_of_one_whole_document_need_no_document_mask() -> None:
    where = Where(torch.arange(4)[None], None)
    assert Full().visible(where, where) is None
    assert torch.equal(Causal().visible(where, where), torch.ones(1, 4, 4).tril().bool())


def test_a_part_may_look_at_all_that_was_run_before() -> None:
    part = Where(WHERE.position_BQ[:, 4:5], WHERE.document_BQ[:, 4:5])
    for layout in (Full(), Causal()):
        assert torch.equal(layout.visible(part, WHERE), layout.visible(WHERE, WHERE)[:, 4:5])


def test_a_layout_is_found_by_its_name() -> None:
    assert isinstance(layout_named("full"), Full) and isinstance(layout_named("causal"), Causal)
    with pytest.raises(ValueError, match="^layout: got 'block', expected one of full, causal$"):
        layout_named("block")
