"""A public model is one like any other: it writes with every cache, can be compiled, learns, and takes adapters."""

from dataclasses import replace
from pathlib import Path

import public
import pytest
import torch
from decoding import finish
from public_logits import whole
from torch import Tensor

from sfumato.config import LoraConfig
from sfumato.model.bundle import Bundle, build_network
from sfumato.model.layout import layout_named
from sfumato.model.lora import adapter_of, add_adapters, merged
from sfumato.process import build_process
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.order import Order
from sfumato.sample.reuse import Reuse

PROMPT = [public.START, 72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("public")
    contents = {"llada": public.LLADA, "dream": public.DREAM, "sdar": public.SDAR}
    for name, content in contents.items():
        public.write_checkpoint(folder / name, content, seed=3)
    return {name: folder / name for name in contents}


def written(bundle: Bundle, *, cache: str = "auto", block: int = 4) -> tuple[int, ...]:
    """A greedy continuation of 8 tokens."""
    config = bundle.config
    process = build_process(
        config.process,
        vocab_size=config.model.vocab_size,
        mask_id=config.tokens.mask,
        never_written=config.tokens.never_written,
        shift=config.shift,
    )
    layout, cpu = layout_named(config.layout, config.model.block), torch.device("cpu")
    reuse = Reuse.chosen(cache, layout, 0)
    decoder = Decoder(bundle.denoiser, process, layout, end_id=config.tokens.end, device=cpu, reuse=reuse)
    tokens, editable = [*PROMPT, *[config.tokens.mask] * 8], [False] * len(PROMPT) + [True] * 8
    request = Request(tokens, editable, Order("confidence"), steps=8, temperature=0.0, block=block, seed=0)
    return finish(decoder, [request])[0]


def greedy(bundle: Bundle) -> tuple[int, ...]:
    """The same by the network alone: in each step the whole row, then the surest open place of the first open block."""
    config = bundle.config
    layout = layout_named(config.layout, config.model.block)
    row_L = torch.tensor([*PROMPT, *[config.tokens.mask] * 8])
    open_L = torch.tensor([False] * len(PROMPT) + [True] * 8)
    starts = [len(PROMPT), len(PROMPT) + 4] if config.layout == "full" else range(4, len(row_L), 4)
    for start in starts:
        end = start + 4
        while open_L[start:end].any():
            shown_BL = row_L[None] if config.layout == "full" else row_L[None, :end]
            where = whole(shown_BL, config.model.block)
            logits_LV = bundle.denoiser.readout(bundle.denoiser.encode(shown_BL, where=where, layout=layout))[0]
            if config.shift:
                logits_LV = torch.cat((logits_LV[:1], logits_LV[:-1]))
            top = logits_LV.softmax(-1).max(-1)
            here_L = torch.zeros_like(open_L)
            here_L[start:end] = open_L[start:end]
            place = int(torch.where(here_L[: len(top.values)], top.values, -1).argmax())
            row_L[place], open_L[place] = top.indices[place], False
    return tuple(row_L.tolist())


@pytest.mark.parametrize("name", ["llada", "dream", "sdar"])
@torch.inference_mode()
def test_it_writes_what_its_network_is_surest_of(folders: dict[str, Path], name: str):
    bundle = Bundle.load(folders[name])
    assert written(bundle) == greedy(bundle)


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_it_writes_with_the_approximate_caches(folders: dict[str, Path], name: str, cache: str):
    bundle = Bundle.load(folders[name])
    tokens = written(bundle, cache=cache)
    assert tokens[: len(PROMPT)] == tuple(PROMPT) and len(tokens) == len(PROMPT) + 8


@pytest.mark.parametrize("name", ["llada", "dream", "sdar"])
@torch.inference_mode()
def test_its_trunk_is_one_graph_for_the_compiler(folders: dict[str, Path], name: str):
    bundle = Bundle.load(folders[name])
    encode = torch.compile(bundle.denoiser.encode, backend="eager", fullgraph=True)
    tokens_BL = torch.tensor([PROMPT])
    how = {
        "where": whole(tokens_BL, bundle.config.model.block),
        "layout": layout_named(bundle.config.layout, bundle.config.model.block),
    }
    assert torch.equal(encode(tokens_BL, **how), bundle.denoiser.encode(tokens_BL, **how))


def loss(network: torch.nn.Module, bundle: Bundle) -> Tensor:
    tokens_BL = torch.tensor([[*PROMPT, 257, 257, 33, 257]])
    layout = layout_named(bundle.config.layout, bundle.config.model.block)
    hidden = network.encode(tokens_BL, where=whole(tokens_BL, bundle.config.model.block), layout=layout)
    return torch.nn.functional.cross_entropy(network.readout(hidden)[0, -4:], torch.tensor([1, 2, 3, 4]))


@pytest.mark.parametrize("name", ["llada", "dream", "sdar"])
def test_it_learns_and_recomputing_activations_changes_nothing(folders: dict[str, Path], name: str):
    bundle = Bundle.load(folders[name], dtype=torch.float64)
    gradients = []
    for checkpointing in (False, True):
        network = build_network(bundle.config, gradient_checkpointing=checkpointing).double().train()
        network.load_state_dict(bundle.denoiser.state_dict())
        loss(network, bundle).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    first, second = gradients
    assert all(grad is not None and torch.isfinite(grad).all() for grad in first.values())
    assert any(float(first[name].norm()) > 0 for name in first)
    assert all(torch.allclose(first[name], second[name], atol=1e-12) for name in first)


@pytest.mark.parametrize("name", ["llada", "dream", "sdar"])
def test_it_takes_adapters(folders: dict[str, Path], name: str):
    bundle = Bundle.load(folders[name], dtype=torch.float64)
    network = bundle.denoiser.train()
    before = loss(network, bundle).item()
    add_adapters(network, LoraConfig(rank=2), seed=0)
    assert loss(network, bundle).item() == pytest.approx(before, abs=1e-12)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learned, lr=0.2)
    for _ in range(5):
        optimiser.zero_grad()
        loss(network, bundle).backward()
        optimiser.step()
    after = loss(network, bundle).item()
    assert after < before - 0.01 and len(adapter_of(network, network.state_dict())) == 2 * 2 * 7
    again = build_network(bundle.config).double()
    again.load_state_dict(merged(network, network.state_dict()))
    assert loss(again, replace(bundle, denoiser=again)).item() == pytest.approx(after, abs=1e-9)
