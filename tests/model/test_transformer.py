"""The network: who sees whom, exactly; and that its shortcuts change nothing.

Shape letters: B rows, L row length, D width, V vocabulary.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.canvas import Where
from sfumato.config import ModelConfig
from sfumato.model.layout import Causal, Full, Layout
from sfumato.model.transformer import Transformer, rms_norm, rotary_tables, rotate

Network = Callable[..., Transformer]
LAYOUTS = pytest.mark.parametrize("layout", [Full(), Causal()], ids=lambda layout: layout.name)
VARIANTS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kv_heads": 2},
        {"kv_heads": 1},
        {"tied": False},
        {"time_conditioning": True},
        {"qk_norm": False, "qkv_bias": True, "scale_embeddings": False, "norm_eps": 1e-5},
        {"head_width": 10, "bias": True},
    ],
    ids=["plain", "grouped", "one-key-head", "untied", "time", "no-qk-norm", "wide-heads"],
)
EPS = 1e-6
# two documents of five and four places, then padding
POSITION = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, -1, -1]])
DOCUMENT = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, -1, -1]])


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(4, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(
    network: Transformer, tokens_BL: Tensor, layout: Layout, where: Where | None = None, t: float = 0.3
) -> Tensor:
    """logits_BLV everywhere, with gradients (that is another path than without)."""
    rows, length = tokens_BL.shape
    where = where or Where(torch.arange(length).expand(rows, length), None)
    t_BL = torch.full(tokens_BL.shape, t, dtype=torch.float64)
    return network.readout(network.encode(tokens_BL, where=where, layout=layout, t_BQ=t_BL))


def changed(tokens_BL: Tensor, *places: int) -> Tensor:
    other = tokens_BL.clone()
    other[:, list(places)] = (other[:, list(places)] - 4 + 7) % 19 + 4
    return other


@LAYOUTS
@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_leaks_from_one_document_into_another(
    network: Network, layout: Layout, changes: dict, dtype: torch.dtype
) -> None:
    model, where, one_BL = network(dtype, **changes), Where(POSITION, DOCUMENT), tokens(1, 11)
    before = logits(model, one_BL, layout, where)
    first = logits(model, changed(one_BL, 0, 3), layout, where)
    assert torch.equal(first[:, 5:9], before[:, 5:9])
    assert not torch.isclose(first[:, 4], before[:, 4]).all()  # in its own document it is felt
    second = logits(model, changed(one_BL, 5, 8, 9, 10), layout, where)
    assert torch.equal(second[:, :5], before[:, :5])
    assert not torch.isclose(second[:, 8], before[:, 8]).all()


@LAYOUTS
@VARIANTS
def test_a_packed_row_is_its_documents_one_by_one(network: Network, layout: Layout, changes: dict) -> None:
    model, row_BL = network(**changes), tokens(1, 11)
    packed = logits(model, row_BL, layout, Where(POSITION, DOCUMENT))
    alone = torch.cat([logits(model, row_BL[:, begin:end], layout) for begin, end in ((0, 5), (5, 9))], dim=1)
    torch.testing.assert_close(packed[:, :9], alone, rtol=0, atol=1e-12)


@LAYOUTS
@VARIANTS
def test_padding_changes_nothing(network: Network, layout: Layout, changes: dict) -> None:
    model, row_BL = network(**changes), tokens(2, 9)
    position = F.pad(torch.arange(9).expand(2, 9), (0, 6), value=-1)
    for fill in (0, 5):
        where = Where(position, torch.where(position < 0, -1, 0))
        padded = logits(model, F.pad(row_BL, (0, 6), value=fill), layout, where)
        torch.testing.assert_close(padded[:, :9], logits(model, row_BL, layout), rtol=0, atol=1e-12)
        assert not padded.isnan().any()


@VARIANTS
def test_in_the_causal_layout_later_tokens_change_nothing_earlier(network: Network, changes: dict) -> None:
    model, row_BL = network(torch.float32, **changes), tokens(2, 12)
    before = logits(model, row_BL, Causal())
    for place in range(1, 12):
        after = logits(model, changed(row_BL, place), Causal())
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.isclose(after[:, place:], before[:, place:]).all(dim=2).any()
    torch.testing.assert_close(logits(model, row_BL[:, :7], Causal()), before[:, :7])


def test_in_the_full_layout_every_token_is_felt_everywhere(network: Network) -> None:
    model, row_BL = network(), tokens(1, 8)
    before = logits(model, row_BL, Full())
    for place in range(8):
        assert not torch.isclose(logits(model, changed(row_BL, place), Full()), before).all(dim=2).any()


@LAYOUTS
@VARIANTS
def test_a_batch_of_8_is_8_batches_of_1(network: Network, layout: Layout, changes: dict) -> None:
    model, rows_BL = network(**changes), tokens(8, 16)
    together = logits(model, rows_BL, layout)
    alone = torch.cat([logits(model, row_BL[None], layout) for row_BL in rows_BL])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@LAYOUTS
@VARIANTS
def test_reading_a_few_places_is_running_all_and_looking_there(network: Network, layout: Layout, changes: dict) -> None:
    model, rows_BL, read_N = network(**changes), tokens(3, 11), torch.tensor([30, 0, 7, 7, 13])
    where = Where(POSITION.expand(3, 11), DOCUMENT.expand(3, 11))
    t_BL = torch.full((3, 11), 0.3, dtype=torch.float64)
    gradients = []
    for reads in (None, read_N):
        hidden = model.encode(rows_BL, where=where, layout=layout, t_BQ=t_BL, read_N=reads)
        hidden_ND = hidden if reads is not None else hidden.flatten(0, 1)[read_N]
        used = [parameter for name, parameter in model.named_parameters() if name != "head.weight"]
        gradients.append((hidden_ND, *torch.autograd.grad(hidden_ND.sin().sum(), used)))
    for whole, some in zip(*gradients, strict=True):
        torch.testing.assert_close(some, whole, rtol=1e-10, atol=1e-12)


@VARIANTS
def test_a_token_that_is_never_written_has_no_chance_at_all(network: Network, changes: dict) -> None:
    result = logits(network(**changes), tokens(2, 5), Full())
    forbidden = torch.zeros(23, dtype=torch.bool)
    forbidden[[0, 2, 3]] = True
    assert result[..., forbidden].eq(-torch.inf).all()
    assert result[..., ~forbidden].isfinite().all()
    assert result.softmax(dim=-1)[..., forbidden].eq(0).all()


def test_grouped_keys_are_the_full_heads_with_shared_keys(network: Network) -> None:
    grouped, full = network(kv_heads=2), network()
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith(("key.weight", "value.weight"))]:
        state[name] = state[name].view(2, 1, 8, 32).expand(2, 2, 8, 32).reshape(32, 32)
    full.load_state_dict(state)
    row_BL = tokens(2, 9)
    torch.testing.assert_close(logits(grouped, row_BL, Full()), logits(full, row_BL, Full()))
    assert grouped.num_parameters() == full.num_parameters() - 2 * 2 * 16 * 32


def test_an_untied_head_is_its_own_table(network: Network) -> None:
    tied, untied = network(), network(tied=False)
    assert untied.head is not None
    assert untied.num_parameters() == tied.num_parameters() + 23 * 32
    untied.load_state_dict(tied.state_dict() | {"head.weight": tied.embedding.weight * 2})
    row_BL = tokens(1, 6)
    torch.testing.assert_close(logits(untied, row_BL, Full()), logits(tied, row_BL, Full()) * 2)


def test_only_a_time_conditioned_network_reads_the_noise_level(network: Network) -> None:
    row_BL = tokens(1, 6)
    plain, told = network(), network(time_conditioning=True)
    assert torch.equal(logits(plain, row_BL, Full(), t=0.1), logits(plain, row_BL, Full(), t=0.9))
    assert not torch.isclose(logits(told, row_BL, Full(), t=0.1), logits(told, row_BL, Full(), t=0.11)).all(dim=2).any()
    where = Where(torch.arange(6)[None], None)
    with pytest.raises(AssertionError, match="needs t"):
        told.encode(row_BL, where=where, layout=Full())


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gradients", [True, False])
def test_every_precision_runs_and_says_the_same(
    network: Network, changes: dict, dtype: torch.dtype, gradients: bool
) -> None:
    exact = logits(network(**changes), tokens(2, 7), Full()).softmax(dim=-1)
    with torch.set_grad_enabled(gradients):
        result = logits(network(dtype, **changes), tokens(2, 7), Full())
    assert result.dtype == dtype
    tolerance = {torch.bfloat16: 0.1, torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(result.double().softmax(dim=-1), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("gradients", [True, False])
def test_autocast_runs_without_a_warning(network: Network, gradients: bool) -> None:
    model = network(torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradients):
        result = logits(model, tokens(2, 7), Full())
    exact = logits(model, tokens(2, 7), Full()).softmax(dim=-1)
    torch.testing.assert_close(result.float().softmax(dim=-1), exact, rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rms_norm_and_its_gradients_are_those_of_torch(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, upstream = (torch.randn(s, generator=generator, dtype=dtype) for s in ((5, 3, 16), (16,), (5, 3, 16)))
    x, weight = (x * scale).requires_grad_(), weight.requires_grad_()
    ours, theirs = rms_norm(x, weight, EPS), F.rms_norm(x, (16,), weight, EPS)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(theirs, (x, weight), upstream),
        strict=True,
    ):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance * float(reference.abs().max()))


def test_rms_norm_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in ((4, 8), (8,)))
    assert torch.autograd.gradcheck(rms_norm, (x, weight, EPS))
    almost_zero = (1e-4 * torch.randn(3, 8, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(rms_norm, (almost_zero, weight, EPS), eps=1e-9, atol=1e-3)


def test_rms_norm_of_nothing_is_nothing() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    result = rms_norm(x, torch.ones(8), EPS)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert result.eq(0).all() and gradient.isfinite().all()


def test_rotary_scores_depend_on_the_distance_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(i: int, j: int) -> float:
        turned = [rotate(x, *rotary_tables(torch.tensor([[place]]), 8, 10000.0)) for x, place in ((q, i), (k, j))]
        return float((turned[0] * turned[1]).sum())

    assert score(5, 3) == pytest.approx(score(105, 103), abs=1e-4)
    assert score(5, 3) != pytest.approx(score(5, 4), abs=1e-3)
    assert torch.equal(rotate(q, *rotary_tables(torch.tensor([[0]]), 8, 10000.0)), q)


@LAYOUTS
def test_only_the_distance_between_positions_counts(network: Network, layout: Layout) -> None:
    model, row_BL = network(), tokens(1, 9)
    near = logits(model, row_BL, layout)
    far = logits(model, row_BL, layout, Where(torch.arange(9)[None] + 50, None))
    torch.testing.assert_close(far, near, rtol=0, atol=1e-4)  # the tables are float32
    wide = logits(model, row_BL, layout, Where(torch.arange(9)[None] * 2, None))
    assert not torch.isclose(wide[:, -1], near[:, -1], atol=1e-2).all()


@VARIANTS
def test_gradient_checkpointing_gives_identical_gradients(network: Network, changes: dict) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = network(torch.float32, checkpointing=checkpointing, **changes)
        result = logits(model, tokens(2, 11), Full(), Where(POSITION.expand(2, 11), DOCUMENT.expand(2, 11)))
        F.cross_entropy(result.flatten(0, 1), changed(tokens(2, 11), *range(11)).flatten()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None and plain.abs().sum() > 0
        assert torch.equal(plain, recomputed)


def test_initial_weights_depend_on_the_seed_alone_and_pass_the_input_through() -> None:
    config = ModelConfig(vocab_size=23, width=32, layers=2, heads=4, mlp_width=48, time_conditioning=True, tied=False)
    first, again, other = (Transformer(config).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    for name, value in first.items():
        if name.endswith(("out.weight", "down.weight", "time.2.weight", ".bias")):
            assert value.eq(0).all(), name
        elif value.ndim == 2:
            assert float(value.std()) == pytest.approx(value.shape[1] ** -0.5, rel=0.2), name


def test_a_network_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="^model.vocab_size must be set before the network is built: got 0$"):
        Transformer(ModelConfig())


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [Full(), Causal()], ids=lambda layout: layout.name)
@VARIANTS
def test_the_gpu_says_what_the_cpu_says(network: Network, layout: Layout, changes: dict) -> None:
    where, rows_BL = Where(POSITION, DOCUMENT), tokens(1, 11)
    exact = logits(network(**changes), rows_BL, layout, where)[:, :9]
    on_gpu = Where(POSITION.cuda(), DOCUMENT.cuda())
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3), (torch.bfloat16, 0.1)):
        model = network(dtype, **changes).cuda()
        with torch.inference_mode():
            t_BL = torch.full((1, 11), 0.3, dtype=torch.float64, device="cuda")
            read_N = torch.arange(9, device="cuda")
            hidden_ND = model.encode(rows_BL.cuda(), where=on_gpu, layout=layout, t_BQ=t_BL, read_N=read_N)
            result = model.readout(hidden_ND).double().cpu()
        torch.testing.assert_close(result.softmax(dim=-1), exact[0].softmax(dim=-1), rtol=0, atol=tolerance)


def test_the_gap_head_is_one_number_a_position_and_changes_nothing_else():
    sizes = {"vocab_size": 24, "width": 16, "layers": 1, "heads": 2, "mlp_width": 24, "context": 8}
    plain, gapped = (Transformer(ModelConfig(**sizes, gap_head=gap)).initialise(3) for gap in (False, True))
    tokens_BL, where = torch.arange(8)[None], Where(torch.arange(8)[None], None)
    hidden_BLD = gapped.encode(tokens_BL, where=where, layout=Full())
    assert torch.equal(hidden_BLD, plain.encode(tokens_BL, where=where, layout=Full()))
    assert torch.equal(gapped.readout(hidden_BLD), plain.readout(hidden_BLD))
    assert torch.equal(gapped.readout(hidden_BLD, head="gap"), torch.zeros(1, 8))
    assert gapped.num_parameters() == plain.num_parameters() + 17
    with pytest.raises(AssertionError, match="no gap head"):
        plain.readout(hidden_BLD, head="gap")
