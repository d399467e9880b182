import torch

from sfumato.canvas import Canvas


def canvas() -> Canvas:
    return Canvas(
        tokens_BL=torch.arange(12).view(3, 4),
        position_BL=torch.arange(4).expand(3, 4),
        editable_BL=torch.tensor([[False, True, True, True]] * 3),
        open_BL=torch.tensor([[False, True, True, True]] * 3),
        t_B=torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64),
        memory={"seed_B": torch.tensor([7, 8, 9])},
    )


def test_writing_closes_the_places_and_leaves_the_old_canvas_alone() -> None:
    old = canvas()
    new = old.write(torch.tensor([5, 11]), torch.tensor([50, 60]))
    assert new.tokens_BL.tolist() == [[0, 1, 2, 3], [4, 50, 6, 7], [8, 9, 10, 60]]
    assert (old.open_BL & ~new.open_BL).flatten().nonzero().flatten().tolist() == [5, 11]
    assert old.tokens_BL.tolist() == torch.arange(12).view(3, 4).tolist() and old.open_BL.sum() == 9


def test_writing_nothing_changes_nothing() -> None:
    none = torch.tensor([], dtype=torch.int64)
    assert torch.equal(canvas().write(none, none).tokens_BL, canvas().tokens_BL)


def test_selected_rows_keep_everything_that_belongs_to_them() -> None:
    chosen = canvas().select(torch.tensor([2, 0, 2]))
    assert chosen.tokens_BL[:, 0].tolist() == [8, 0, 8]
    assert chosen.t_B.tolist() == [0.25, 1.0, 0.25] and chosen.memory["seed_B"].tolist() == [9, 7, 9]
    assert chosen.position_BL.shape == chosen.editable_BL.shape == chosen.open_BL.shape == (3, 4)
