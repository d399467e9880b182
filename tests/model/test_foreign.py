"""Networks of the transformers library: the same logits as their own forward, in our layouts, with a cache too."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sfumato.canvas import Where
from sfumato.config import ConfigError
from sfumato.model.cache import Kept
from sfumato.model.families import CAUSAL, FAMILIES, MASKED, SINCE
from sfumato.model.foreign import Foreign
from sfumato.model.layout import Block, Causal, Full, Layout

transformers = pytest.importorskip("transformers", reason="needs transformers, which is not installed")

from foreign import tiny_config, tiny_network  # noqa: E402

VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
HERE = sorted(kind for kind in FAMILIES if VERSION >= SINCE.get(kind, (5, 0)))
PLACES = torch.arange(13)[None]
families = pytest.mark.parametrize("kind", HERE)
modern = pytest.mark.skipif("modernbert" not in HERE, reason="needs a newer transformers for ModernBERT")
causal = pytest.mark.parametrize("kind", sorted(CAUSAL))


def text(rows: int = 1, length: int = 13) -> Tensor:
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(5))


def own(network: Foreign, tokens_BL: Tensor) -> Tensor:
    """Logits of the class's own forward."""
    return network._network[0](input_ids=tokens_BL).logits


def logits(network: Foreign, tokens_BL: Tensor, layout: Layout, where: Where | None = None) -> Tensor:
    where = where or Where(PLACES[:, : tokens_BL.shape[1]].expand(len(tokens_BL), -1), None)
    return network.readout(network.encode(tokens_BL, where=where, layout=layout))


def natural(kind: str) -> Layout:
    return Causal() if kind in CAUSAL else Full()


@families
def test_logits_are_those_of_the_class(kind: str):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        network = tiny_network(kind, dtype)
        tokens_BL = text(2)
        found_BLV = logits(network, tokens_BL, natural(kind))
        torch.testing.assert_close(found_BLV, own(network, tokens_BL), rtol=0, atol=tolerance)


@families
def test_padding_and_neighbours_in_a_row_change_nothing(kind: str):
    network, tokens_BL = tiny_network(kind), text(2)
    alone = [own(network, tokens_BL[:1]), own(network, tokens_BL[1:, :6]), own(network, tokens_BL[1:, 6:11])]
    position_BQ = torch.stack((torch.arange(13), torch.tensor([*range(6), *range(5), -1, -1])))
    document_BQ = torch.tensor([[0] * 13, [0] * 6 + [1] * 5 + [-1] * 2])
    packed_BLV = logits(network, tokens_BL, natural(kind), Where(position_BQ, document_BQ))
    together = torch.cat((packed_BLV[0], packed_BLV[1, :11]))
    torch.testing.assert_close(together, torch.cat([part[0] for part in alone]), rtol=0, atol=1e-9)


@families
def test_only_what_is_read_becomes_logits(kind: str):
    network, tokens_BL, read_N = tiny_network(kind), text(2), torch.tensor([3, 20])
    where = Where(PLACES.expand(2, -1), None)
    hidden_ND = network.encode(tokens_BL, where=where, layout=Full(), read_N=read_N)
    assert hidden_ND.ndim == 2 and len(hidden_ND) == 2
    all_BLV = logits(network, tokens_BL, Full())
    torch.testing.assert_close(network.readout(hidden_ND), all_BLV.flatten(0, 1)[read_N])


@families
def test_layouts_say_who_sees_whom(kind: str):
    network, tokens_BL = tiny_network(kind), text()
    other_BL = tokens_BL.clone()
    other_BL[0, 2] = 60

    def changed(layout: Layout, where: Where | None = None) -> list[bool]:
        one, two = (logits(network, tokens_BL, layout, where) for tokens_BL in (text(), other_BL))
        return ((one - two).abs().amax(dim=-1) > 1e-12)[0].tolist()

    assert changed(Full())[:6] == [True] * 6  # windows are wider than that
    assert changed(Causal())[:6] == [False] * 2 + [True] * 4
    block_BQ = PLACES // 4
    assert changed(Block(4), Where(PLACES, None, block_BQ, torch.ones_like(PLACES, dtype=torch.bool)))[:4] == [True] * 4
    later = changed(Block(4), Where(PLACES, None, block_BQ, block_BQ < 1))
    assert later[:4] == [True] * 4 and any(later[4:])


@causal
def test_keys_and_values_can_be_kept(kind: str):
    network, tokens_BL = tiny_network(kind), text()
    whole_BLV = logits(network, tokens_BL, Causal())
    cache, parts = network.empty_cache(1, 16), []
    for begin, end in ((0, 6), (6, 7), (7, 13)):
        where, read = Where(PLACES[:, begin:end], None), Where(PLACES[:, :end], None)
        kept = Kept(cache, PLACES[:, begin:end], read)
        hidden_BQD = network.encode(tokens_BL[:, begin:end], where=where, layout=Causal(), kept=kept)
        parts.append(network.readout(hidden_BQD))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole_BLV, rtol=0, atol=1e-9)


@modern
def test_a_family_that_keeps_nothing_says_so():
    with pytest.raises(ConfigError, match="cache: a network of the kind modernbert keeps no keys and values; use none"):
        tiny_network("modernbert").empty_cache(1, 8)


@families
def test_recomputing_layers_changes_no_gradient(kind: str):
    plain, lean = (Foreign(tiny_config(kind), gradient_checkpointing=lean).double() for lean in (False, True))
    weights = tiny_network(kind).state_dict()
    for network in (plain, lean):
        network.load_state_dict(weights)
        logits(network.train(), text(), natural(kind)).logsumexp(-1).sum().backward()
    for one, two in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@families
def test_names_of_weights_are_the_librarys_without_those_that_are_tied(kind: str):
    network = tiny_network(kind)
    state = network.state_dict()
    assert state.keys() <= network._network[0].state_dict().keys()
    assert {name for name, _ in network.named_parameters()} <= state.keys()
    again = network.blank().double()
    again.load_state_dict(state, assign=True)
    assert len(list(again.parameters())) == len(list(network.parameters()))
    torch.testing.assert_close(logits(again.eval(), text(), Full()), logits(network, text(), Full()))
    assert all(dict(network.named_parameters())[name].shape[0] == 64 for name in network.tables)


def test_what_is_never_written_has_no_chance():
    network = Foreign(tiny_config("bert"), never_written=(3, 5)).initialise(1).eval()
    told_LV = logits(network, text(), Full())[0]
    assert (told_LV[:, [3, 5]] == float("-inf")).all() and told_LV[:, 6:].isfinite().all()


def test_a_copy_is_a_network_of_its_own():
    network = tiny_network("bert")
    other = copy.deepcopy(network)
    before = logits(network, text(), Full())
    for parameter in other.parameters():
        parameter.zero_()
    torch.testing.assert_close(logits(network, text(), Full()), before)
    assert not torch.equal(logits(other, text(), Full()), before)


def test_vectors_can_take_the_place_of_tokens():
    network = tiny_network("roberta")
    table_VD = network.get_parameter("roberta.embeddings.word_embeddings.weight")
    hidden = [network.encode(x, where=Where(PLACES, None), layout=Full()) for x in (text(), table_VD[text()])]
    torch.testing.assert_close(*hidden)


def test_nothing_but_the_installed_class_is_built():
    """Code or kernels that a config.json names are not looked for."""
    named = {"auto_map": {"AutoModelForMaskedLM": "evil.Model"}, "_attn_implementation": "someone/kernels"}
    network = Foreign(tiny_config("bert", **named))
    assert network.config._attn_implementation == "sdpa" and not hasattr(network.config, "auto_map")


@pytest.mark.parametrize("kind", ["bert", pytest.param("modernbert", marks=modern), "gemma2", "gpt2"])
def test_lower_precision_is_close(kind: str):
    network, tokens_BL = tiny_network(kind, torch.float32), text()
    position_BQ, document_BQ = PLACES % 7, PLACES // 7
    where = Where(position_BQ, document_BQ)
    exact_BLV = logits(network, tokens_BL, natural(kind), where)
    with torch.autocast("cpu", torch.bfloat16):
        mixed_BLV = logits(network, tokens_BL, natural(kind), where)
    low_BLV = logits(network.bfloat16(), tokens_BL, natural(kind), where)
    for found_BLV in (mixed_BLV, low_BLV):
        assert found_BLV.isfinite().all()
        assert (found_BLV.float() - exact_BLV).abs().mean() < 0.1 * exact_BLV.std()


def test_fewer_layers_end_earlier():
    network, where = tiny_network("bert"), Where(PLACES, None)
    states = network._network[0](input_ids=text(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(network.encode(text(), where=where, layout=Full(), layers=2), states[2])


def test_training_drops_what_it_is_told_to():
    def shares(dropout: float) -> set[float]:
        return {m.p for m in Foreign(tiny_config("bert"), dropout=dropout).modules() if isinstance(m, nn.Dropout)}

    assert (shares(0.0), shares(0.25)) == ({0.0}, {0.25})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Foreign({"model_type": "mamba"}), "model_type: got 'mamba', expected one of bert, biogpt"),
        (lambda: Foreign(tiny_config("bert", hidden_size=33)), "BertForMaskedLM cannot be built: The hidden size"),
        (lambda: Foreign(tiny_config("bert", vocab_size=10**16)), "BertForMaskedLM cannot be built"),
        (lambda: tiny_network("bert").embed(text()), "gaussian noise needs an embedding of its own, which bert lacks"),
    ],
)
def test_what_cannot_be_is_one_line(make: Callable[[], object], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_both_lists_of_families_are_apart():
    assert not MASKED.keys() & CAUSAL.keys()
