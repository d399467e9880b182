import pytest

from sfumato.show.figures import Figures

HALF = Figures(step=12, nfe=11, written=30, wanted=60, seconds=0.5)


def test_the_line_of_a_running_text_says_how_far_it_is_and_what_it_costs():
    assert HALF.live(80).plain.split() == "━━━━━━━━━━━━━━━━ 50% open step 12 NFE 11 TPF 2.7 60 tokens/s".split()


def test_the_line_of_a_finished_text_says_what_it_cost_and_explains_the_colours():
    line = Figures(step=30, nfe=30, written=60, wanted=60, seconds=0.5).final(80, "seed 3").plain
    assert line == "seed 3  60 tokens  30 steps  NFE 30  TPF 2.0  120 tokens/s  unsure ━━━━━━ sure"


def test_figures_keep_their_places_while_they_grow():
    later = Figures(step=119, nfe=119, written=31, wanted=60, seconds=0.5)
    for name in ("open", "step", "NFE", "TPF", "tokens/s"):
        assert name in HALF.live(80).plain
    for name in ("open", "step", "NFE", "TPF"):
        assert HALF.live(80).plain.index(name) == later.live(80).plain.index(name)


@pytest.mark.parametrize("width", [1, 2, 10, 20, 30, 40, 60, 79])
def test_a_narrow_line_leaves_figures_out(width: int):
    assert HALF.live(width).cell_len <= width and HALF.final(width, "seed 3").cell_len <= width


def test_nothing_done_in_no_time_is_no_division_by_zero():
    nothing = Figures(step=0, nfe=0, written=0, wanted=0, seconds=0.0)
    assert "0 tokens/s" in nothing.live(80).plain and "TPF 0.0" in nothing.final(80, "").plain
