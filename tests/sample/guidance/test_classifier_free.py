"""Classifier-free guidance: the formula in one step and over a whole run, and what it costs."""

import itertools
from dataclasses import replace

import pytest
import torch
from decoding import END, SOS, finish, small_decoder, small_network, watch
from oracle import LENGTH, MASK, START, WORDS, Oracle

from sfumato.canvas import Where
from sfumato.model.layout import Block, Causal, Full
from sfumato.process import Masked
from sfumato.sample.ancestral import Ancestral
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.guidance import ClassifierFree, as_guidance
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.reuse import Reuse
from sfumato.sample.threshold import Threshold

ROWS = 3_000
PROMPT = 2  # the word that is told

MARGIN = Order("margin")


def prompted(prompt: int, tokens: int, sampler=MARGIN, steps: int = 40, block: int = 0, **more) -> Request:
    text = [SOS, *[4 + (prompt + i) % 19 for i in range(prompt - 1)], *[0] * tokens]
    return Request(text, [False] * prompt + [True] * tokens, sampler, steps, block=block, **more)


def told(oracle: Oracle, prompt: int | None, scale: float, other: int | None) -> torch.Tensor:
    """The exact law of the last three words, written from left to right with the guided conditionals: (27,)."""

    def conditional(first: int | None, words: tuple[int, ...]) -> torch.Tensor:
        joint = oracle.joint.sum(dim=0) if first is None else oracle.joint[first]
        for word in words:
            joint = joint[word]
        p_V = joint.flatten(1).sum(dim=1) if joint.ndim > 1 else joint
        return p_V / p_V.sum()

    law = []
    for text in itertools.product(range(WORDS), repeat=LENGTH - 1):
        p = 1.0
        for i, word in enumerate(text):
            c_V, u_V = conditional(prompt, text[:i]), conditional(other, text[:i])
            guided_V = c_V ** (1 + scale) * u_V**-scale
            p *= float(guided_V[word] / guided_V.sum())
        law.append(p)
    return torch.tensor(law, dtype=torch.float64)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.5])
@pytest.mark.parametrize("other", [None, 0])
def test_a_whole_run_has_the_law_of_the_formula(oracle: Oracle, scale: float, other: int | None):
    against = None if other is None else (START, other)
    row = Request([START, PROMPT, *[MASK] * 3], [False, False, True, True, True], LeftToRight(), 3)
    row = replace(row, guidance=(ClassifierFree(scale, against),))
    decoder = Decoder(oracle, Masked(MASK), Full(), end_id=START, device="cpu")
    texts_BL = torch.tensor(finish(decoder, (replace(row, seed=seed) for seed in range(ROWS))))[:, 1:]
    law_T = told(oracle, PROMPT, scale, other)
    frequency_T = oracle.frequency(texts_BL).view(WORDS, -1)[PROMPT]
    chi_square = float(ROWS * ((frequency_T - law_T) ** 2 / law_T).sum())
    cells = len(law_T) - 1
    spread = (2 * cells + float((1 / law_T).sum()) / ROWS) ** 0.5
    assert abs(chi_square - cells) < 4 * spread


def test_the_law_of_a_run_is_another_one_without_guidance(oracle: Oracle):
    plain_T = told(oracle, PROMPT, 0.0, None)
    assert torch.allclose(plain_T, oracle.joint[PROMPT].flatten() / oracle.joint[PROMPT].sum())
    assert float((plain_T - told(oracle, PROMPT, 1.5, None)).abs().sum()) > 0.2


class Watching(Decoder):
    """Keeps the guided scores of each step."""

    def _logits(self, canvas, index_N, *gaps):
        found = super()._logits(canvas, index_N, *gaps)
        self.seen = [*getattr(self, "seen", []), (index_N, found[0].clone(), canvas)]
        return found


@pytest.mark.parametrize("against", [None, (SOS, 9, 9, 5), (SOS, 8)], ids=["hidden", "as long", "shorter"])
@pytest.mark.parametrize("scale", [2.0, -0.5])
def test_the_scores_of_every_step_are_those_of_the_formula(against, scale: float):
    network = small_network()
    decoder = Watching(network, Masked(0), Full(), end_id=END, device="cpu")
    request = prompted(4, 9, Order("margin"), 5, guidance=(ClassifierFree(scale, against),))
    finish(decoder, [request, prompted(3, 20, LeftToRight())])

    def logits(tokens: list[int]) -> torch.Tensor:
        row = torch.tensor([tokens])
        hidden = network.encode(row, where=Where(torch.arange(len(tokens))[None], None), layout=Full())
        return network.readout(hidden[0]).clone()

    for index_N, guided_NV, canvas in decoder.seen:
        if canvas.tokens_BL[0, 3] != request.tokens[3]:
            break  # it has ended, and the other row moved up
        mine_N = index_N < canvas.tokens_BL.shape[1]
        text = canvas.tokens_BL[0, :13].tolist()
        other = [SOS, 0, 0, 0, *text[4:]] if against is None else [*against, *text[4:]]
        c_NV = logits(text)[index_N[mine_N]]
        u_NV = logits(other)[index_N[mine_N] + len(other) - 13]
        expected_NV = torch.where(c_NV.isinf(), c_NV, u_NV + (scale + 1) * (c_NV - u_NV))
        assert torch.allclose(guided_NV[mine_N], expected_NV, atol=1e-9)


@pytest.mark.parametrize("sampler", [Ancestral(), Threshold(0.3), Order("entropy")], ids=lambda s: s.name)
def test_a_scale_of_zero_is_no_guidance_bit_for_bit_and_free(sampler):
    rows = [prompted(3 + i, 12, sampler, 8, seed=i) for i in range(3)]
    plain, guided = (small_decoder(dtype=torch.float32) for _ in range(2))
    guidance = (ClassifierFree(0.0), ClassifierFree(0.0, (SOS, 5)))
    assert finish(plain, rows) == finish(guided, [replace(row, guidance=guidance) for row in rows])
    assert plain.counters.positions == guided.counters.positions


@pytest.mark.parametrize("sampler", [Ancestral(), Threshold(0.3), Order("margin")], ids=lambda s: s.name)
def test_levels_that_are_never_reached_are_no_guidance(sampler):
    row = prompted(3, 12, sampler, 6)
    idle = replace(row, guidance=(ClassifierFree(3.0, levels=(0.0, 0.0)),))
    plain, guided = small_decoder(), small_decoder()
    assert finish(plain, [row]) == finish(guided, [idle])
    assert plain.counters == replace(guided.counters, seconds=plain.counters.seconds)


def test_levels_say_in_which_steps_it_costs():
    row = prompted(3, 12, Order("margin"), 4, guidance=(ClassifierFree(1.0, levels=(0.0, 0.5)),))
    assert watch(small_decoder(), [row])[-1].nfe == 4 + 2  # t = 1, 3/4, 1/2, 1/4
    assert watch(small_decoder(), [replace(row, guidance=(ClassifierFree(1.0),))])[-1].nfe == 8


def mixed(block: int = 0) -> list[Request]:
    """Rows with all kinds of guidance, and without."""
    against = (SOS, *range(4, 4 + 3 + 4 * bool(block)))
    return [
        prompted(4, 11, Order("margin"), 12, block, seed=1, guidance=(ClassifierFree(1.0),)),
        prompted(4, 20, Threshold(0.3), 20, block, seed=2),
        prompted(4, 15, Order("margin"), 15, block, seed=3, guidance=(ClassifierFree(2.0, against),)),
        prompted(8, 9, Order("entropy"), 9, block, seed=4, guidance=(ClassifierFree(1.0, levels=(0.1, 0.7)),)),
        prompted(
            8, 18, Order("entropy"), 9, block, seed=5, guidance=(ClassifierFree(1.0), ClassifierFree(0.5, against))
        ),
    ]


SETUPS = [(Full(), "none", 0), (Full(), "none", 5), (Block(), "none", 4), (Block(), "exact", 4), (Full(), "dual", 5)]


@pytest.mark.parametrize(("layout", "reuse", "block"), SETUPS)
def test_rows_that_join_and_leave_are_written_as_if_alone(layout, reuse: str, block: int):
    alone = [finish(small_decoder(layout=layout, reuse=Reuse(reuse)), [row])[0] for row in mixed(block)]
    decoder = small_decoder(layout=layout, reuse=Reuse(reuse))
    events = []
    for row in mixed(block):
        decoder.add(row)
        events += decoder.step()
    events += watch(decoder)
    together = {event.request: event.tokens for event in events if event.done}
    assert [together[i] for i in range(len(alone))] == alone
    assert [text[: len(r.tokens) - sum(r.editable)] for text, r in zip(alone, mixed(block), strict=True)] == [
        tuple(r.tokens[: len(r.tokens) - sum(r.editable)]) for r in mixed(block)
    ]


def test_a_block_that_holds_all_of_the_text_is_the_full_layout():
    rows = [prompted(4, 12, seed=i, guidance=(ClassifierFree(1.5, (SOS, *[6] * i)),)) for i in range(4)]
    full = finish(small_decoder(layout=Full()), rows)
    assert finish(small_decoder(layout=Block()), [replace(row, block=20) for row in rows]) == full


@pytest.mark.parametrize(("layout", "causal", "block"), [(Block(), False, 4), (Causal(), True, 0)])
def test_an_exact_cache_changes_nothing(layout, causal: bool, block: int):
    rows = mixed(block)
    if causal:
        guidance = ClassifierFree(1.5, (SOS, 5, 6))
        rows = [prompted(3 + i, 10, LeftToRight(), 10, seed=i, guidance=(guidance,) * (i % 2)) for i in range(4)]
    decoders = [small_decoder(causal=causal, layout=layout, reuse=Reuse(name)) for name in ("none", "exact")]
    texts = [finish(decoder, rows) for decoder in decoders]
    assert texts[0] == texts[1]
    assert decoders[1].counters.positions < decoders[0].counters.positions


def test_only_guided_rows_cost_more():
    rows = (prompted(4, 12, Order("margin"), 12, seed=i) for i in range(4))
    plain = [replace(row, tokens=[*row.tokens, 7], editable=[*row.editable, False]) for row in rows]  # no early end
    rows = [replace(plain[0], guidance=(ClassifierFree(1.0),)), *plain[1:]]
    counts = []
    for several in (plain, rows):
        decoder = small_decoder()
        finish(decoder, several)
        counts.append(decoder.counters.positions)
    assert counts[1] - counts[0] == 12 * 17  # one row more


def test_guidance_moves_the_text_towards_the_prompt():
    network, row = small_network(), prompted(6, 1, Order("margin"), 1, temperature=0.0)
    where = Where(torch.arange(7)[None], None)

    def log_p(tokens) -> torch.Tensor:
        hidden = network.encode(torch.tensor([tokens]), where=where, layout=Full())
        return network.readout(hidden[0, -1:])[0].log_softmax(dim=-1)

    c_V, u_V = log_p(row.tokens), log_p([SOS, *[0] * 6])
    ratio = []
    for scale in (0.0, 1.0, 10.0):
        token = finish(small_decoder(), [replace(row, guidance=(ClassifierFree(scale),))])[0][-1]
        ratio.append(float(c_V[token] - u_V[token]))
    assert ratio == sorted(ratio)


def test_the_whole_prompt_can_be_hidden():
    tokens, editable = [SOS, 5, END, 6, 0, 0], [False] * 4 + [True] * 2
    for whole, hidden in ((False, [False, True, False, True]), (True, [True] * 4)):
        (branch,) = ClassifierFree(1.0, whole=whole).branches(tokens, editable, END)
        assert branch.hidden == [*hidden, False, False]
    assert as_guidance(0.5, whole=True) == (ClassifierFree(0.5, whole=True),)


@pytest.mark.parametrize(
    ("row", "causal", "layout", "message"),
    [
        (prompted(3, 4, LeftToRight(), guidance=(ClassifierFree(1.0),)), True, Causal(), "another prompt"),
        (prompted(3, 4, block=4, guidance=(ClassifierFree(1.0, (SOS,)),)), False, Block(), "multiple of the block, 4"),
    ],
)
def test_guidance_that_the_model_cannot_follow_is_refused(row, causal: bool, layout, message: str):
    with pytest.raises(ValueError, match=message):
        small_decoder(causal=causal, layout=layout).add(row)


@pytest.mark.parametrize("bad", [{"scale": -2.0}, {"scale": float("nan")}, {"levels": (0.5, 0.1)}, {"levels": (0, 2)}])
def test_nonsense_is_refused(bad: dict):
    with pytest.raises(ValueError, match="guidance"):
        ClassifierFree(**bad)
