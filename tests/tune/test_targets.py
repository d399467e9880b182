"""What a teacher says of noised text: the law of its steps, and nothing new where nothing is to be learned."""

import itertools
import math

import pytest
import torch
from decoding import law, open_places, small_network, variation
from oracle import LENGTH, MASK, START, VOCABULARY, WORDS, Oracle, uniform_noise
from torch import Tensor

from sfumato.canvas import Where
from sfumato.model.layout import Block, Full, Layout
from sfumato.process import Cosine, Linear, Masked, Noised, Process, Schedule, Uniform
from sfumato.tune.estimates import View
from sfumato.tune.targets import decoded, divergence, foreseen, said

EDITABLE = torch.tensor([[False, *[True] * LENGTH]])
UNIFORM = Uniform(mask_id=MASK, vocab_size=VOCABULARY, never_written=(MASK, START))


class Table(Oracle):
    """A network whose word for each pattern of masks is a table that can be learned, whatever is true."""

    def __init__(self, table: Tensor):
        self.given = table
        super().__init__()

    def _conditionals(self) -> Tensor:
        return self.given


def random_table(seed: int) -> Tensor:
    """Predictions that contradict each other, so that it matters how many steps are made."""
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn((*[WORDS + 1] * LENGTH, LENGTH, VOCABULARY), generator=generator, dtype=torch.float64)


def masked_rows(process: Process, rows_BL: Tensor, t: float | Tensor, seed: int = 0) -> tuple[Noised, Where]:
    """These rows at level t, and who the places are."""
    t_B1 = torch.as_tensor(t, dtype=torch.float64).expand(len(rows_BL))[:, None]
    seeds_B = torch.arange(len(rows_BL)) + (seed << 32)
    noised = process.corrupt(rows_BL, t_B1, editable_BL=EDITABLE.expand_as(rows_BL), seeds_B=seeds_B)
    place_BL = torch.arange(LENGTH + 1).expand_as(rows_BL)
    return noised, Where(place_BL, None, place_BL // 2)


def ancestral(schedule: Schedule, levels: list[float]):
    """The choice of places of ancestral sampling, for `law`."""

    def choose(pattern, p, step):
        now, then = (float(schedule.alpha(torch.tensor(t, dtype=torch.float64))) for t in levels[step : step + 2])
        share, places = (then - now) / (1 - now), open_places(pattern)
        for flags in itertools.product((0, 1), repeat=len(places)):
            chance = math.prod(share if flag else 1 - share for flag in flags)
            yield tuple(place for place, flag in zip(places, flags, strict=True) if flag), chance

    return choose


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3])
def test_on_average_the_target_is_the_law_of_the_steps(steps: int, schedule: Schedule):
    """From pure noise to the end; a target is the law of its word given the way, so that their mean is its law."""
    teacher, process, count = Table(random_table(1)), Masked(MASK, schedule), 8000
    noised, where = masked_rows(process, teacher.draw(1).expand(count, -1), 1.0)
    t = [1 - i / steps for i in range(steps + 1)]
    levels = [torch.full(noised.inputs_BL.shape, level, dtype=torch.float64) for level in t]
    logp_NV = decoded(View(process, Full()), teacher, noised, where, levels, torch.arange(count))
    p_BLV = logp_NV.exp().view(count, LENGTH, VOCABULARY)[..., :WORDS]
    law_T = law(teacher, steps, ancestral(schedule, t)).view([WORDS] * LENGTH)
    for i in range(LENGTH):
        expected_V = law_T.sum(dim=[axis for axis in range(LENGTH) if axis != i])
        error_V = p_BLV[:, i].std(dim=0) / math.sqrt(count)
        assert ((p_BLV[:, i].mean(dim=0) - expected_V).abs() < 4.5 * error_V + 1e-12).all()


def test_what_is_left_masked_gets_what_the_last_step_said():
    """After a very short way almost nothing is written, so the target is what the text says as it is."""
    teacher, process = Table(random_table(2)), Masked(MASK)
    noised, where = masked_rows(process, teacher.draw(50), 0.7)
    levels = [torch.full(noised.inputs_BL.shape, t, dtype=torch.float64) for t in (0.7, 0.7 - 1e-9, 0.7 - 2e-9)]
    logp_NV = decoded(View(process, Full()), teacher, noised, where, levels, torch.arange(50))
    torch.testing.assert_close(logp_NV, said(View(process, Full()), teacher, noised, where))


@pytest.mark.parametrize("layout", [Full(), Block(2)], ids=["full", "block"])
@pytest.mark.parametrize("kind", ["sdtt", "consistency"])
def test_a_student_that_is_its_teacher_learns_nothing_from_no_way(kind: str, layout: Layout):
    """One step of the teacher, or the same noise: loss 0, gradient 0."""
    student, teacher, process = small_network(), small_network(), Masked(0)
    student.requires_grad_(True)
    rows_BL = torch.randint(4, 24, (6, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    noised, where = masked_rows(process, rows_BL, 0.6)
    if kind == "sdtt":
        levels = [noised.t_BL, noised.t_BL - 0.3]
        target_NV = decoded(View(process, layout), teacher, noised, where, levels, torch.arange(6))
    else:
        target_NV = foreseen(View(process, layout), teacher, noised, noised, where)
    loss = divergence(target_NV, said(View(process, layout), student, noised, where)).sum()
    loss.backward()
    assert len(noised.index_N) > 5 and abs(float(loss.detach())) < 1e-12
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-12


@pytest.mark.parametrize("process", [Masked(MASK), Masked(MASK, objective="count"), UNIFORM], ids=["m", "count", "u"])
def test_less_of_the_same_noise(process: Process):
    """What is noised at s is noised at t, and alike; and both levels have the share of noise that they should."""
    oracle, count = Oracle(), 20_000
    rows_BL = oracle.draw(count)
    (more, _), (less, _) = (masked_rows(process, rows_BL, t) for t in (0.8, 0.35))
    changed_BL, before_BL = more.inputs_BL != rows_BL, less.inputs_BL != rows_BL
    assert (changed_BL | ~before_BL).all() and torch.equal(less.inputs_BL[before_BL], more.inputs_BL[before_BL])
    words = WORDS if process is UNIFORM else math.inf  # a random word may be the right one
    for t, found_BL in ((0.8, changed_BL), (0.35, before_BL)):
        share = math.ceil(t * LENGTH) / LENGTH if getattr(process, "objective", "") == "count" else t * (1 - 1 / words)
        error = math.sqrt(share * (1 - share) / (count * LENGTH))
        assert abs(float(found_BL[:, 1:].double().mean()) - share) < 4.5 * error + 1e-12


def test_with_less_noise_what_is_seen_is_certain_and_what_is_not_is_as_the_teacher_says():
    teacher, process = Oracle(), Masked(MASK)
    rows_BL = teacher.draw(40)
    (noised, where), (less, _) = (masked_rows(process, rows_BL, t) for t in (0.9, 0.4))
    logp_NV = foreseen(View(process, Full()), teacher, noised, less, where)
    hidden_BLV = teacher.encode(less.inputs_BL, where=where, layout=Full())
    for logp_V, index in zip(logp_NV, noised.index_N.tolist(), strict=True):
        row, i = divmod(index, LENGTH + 1)
        if less.inputs_BL[row, i] == MASK:
            torch.testing.assert_close(logp_V[:WORDS], hidden_BLV[row, i, :WORDS])
        else:
            assert logp_V[rows_BL[row, i]] == 0.0 and float(logp_V.exp().sum()) == 1.0


def test_where_noise_is_words_what_stands_there_counts():
    """The target is p(clean | all that is seen), by Bayes' rule from the texts."""
    t, s = 0.9, 0.4
    teacher = Oracle(noise=uniform_noise())
    rows_BL = teacher.draw(30)
    (noised, where), (less, _) = (masked_rows(UNIFORM, rows_BL, level) for level in (t, s))
    p_BLV = foreseen(View(UNIFORM, Full()), teacher, noised, less, where).exp().view(30, LENGTH, VOCABULARY)
    q_XZ = uniform_noise()(torch.tensor(s, dtype=torch.float64))[:, :WORDS]
    weight_BT = q_XZ[teacher.texts_TL[None], less.inputs_BL[:, None, 1:]].prod(dim=-1) * teacher.probability_T
    weight_BT = weight_BT / weight_BT.sum(dim=1, keepdim=True)
    for i in range(LENGTH):
        expected_BV = weight_BT @ torch.nn.functional.one_hot(teacher.texts_TL[:, i], WORDS).double()
        torch.testing.assert_close(p_BLV[:, i, :WORDS], expected_BV)


def test_a_student_with_half_the_steps_comes_close_to_its_teacher():
    """SDTT: total variation to the law of the teacher's four steps, by enumeration."""
    process, oracle = Masked(MASK), Oracle()
    teacher, table = Table(random_table(3)), torch.nn.Parameter(random_table(3))
    student, optimiser = Table(table), torch.optim.Adam([table], lr=0.1)
    for step in range(100):
        t_B = torch.where(torch.arange(192) % 2 == 0, 1.0, 0.5)  # where the student's two steps begin
        noised, where = masked_rows(process, oracle.draw(192, step), t_B, step)
        levels = [noised.t_BL, noised.t_BL - 0.25, noised.t_BL - 0.5]
        target_NV = decoded(View(process, Full()), teacher, noised, where, levels, torch.arange(192) + 192 * step)
        divergence(target_NV, said(View(process, Full()), student, noised, where)).mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    def written(network: Table, steps: int) -> Tensor:
        with torch.no_grad():
            return law(network, steps, ancestral(Linear(), [1 - i / steps for i in range(steps + 1)]))

    goal_T = written(teacher, 4)
    before, after = variation(written(teacher, 2), goal_T), variation(written(student, 2), goal_T)
    assert after < 0.1 and after < 0.7 * before, (before, after)  # 0.142 and 0.087
