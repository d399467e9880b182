"""The public programs that we are compared with. None is part of Sfumato; a benchmark gets along without them.

Shape letters: B rows, P prompt length, L row or canvas length, V vocabulary.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bench
import torch
from torch import Tensor, nn

from sfumato.canvas import Where
from sfumato.config import ModelConfig
from sfumato.data.batches import Batch
from sfumato.model.hub.llada import LLADA
from sfumato.model.hub.llama import LLAMA
from sfumato.model.layout import Block, Full, Layout
from sfumato.model.transformer import Transformer


def load_file(path: Path) -> ModuleType:
    """Import a Python file by its path."""
    spec = importlib.util.spec_from_file_location(f"{path.resolve().parent.name}_{path.stem}_peer", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"--peer {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the file look themselves up
    spec.loader.exec_module(module)
    return module


class NanoGPT:
    """The public nanoGPT network in the loop of its train.py: autocast, clip, AdamW, no average of the weights."""

    def __init__(self, path: Path, m: ModelConfig, lr: float, device: torch.device, dtype: torch.dtype, compiled: bool):
        """From the path of its model.py."""
        peer = load_file(path)
        sizes = {"n_layer": m.layers, "n_head": m.heads, "n_embd": m.width, "dropout": 0.0, "bias": False}
        with contextlib.redirect_stdout(sys.stderr):
            self.network = peer.GPT(peer.GPTConfig(block_size=m.context, vocab_size=m.vocab_size, **sizes)).to(device)
            self.optimiser = self.network.configure_optimizers(0.1, lr, (0.9, 0.95), device.type)
        self.forward = torch.compile(self.network) if compiled else self.network
        self.device, self.dtype = device, dtype
        self.update = bench.Stopwatch(device)
        self._timed_update = self.update.around(self._update)

    @property
    def block_parameters(self) -> int:
        """All but the embeddings."""
        return sum(parameter.numel() for parameter in self.network.transformer.h.parameters())

    def step(self, batch: Batch) -> None:
        """One step."""
        self._loss(self.forward, batch).backward()
        self._timed_update()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def nats_per_token(self, batch: Batch) -> float:
        """On these rows, with the weights of now."""
        return float(self._loss(self.network, batch))

    def _loss(self, network: Callable[..., Any], batch: Batch) -> Tensor:
        x_BL, scored_BL = batch.tokens_BL.to(self.device), batch.editable_BL.to(self.device)
        y_BL = torch.where(scored_BL, x_BL, -1).roll(-1, dims=1)
        y_BL[:, -1] = -1
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return network(x_BL, y_BL)[1]

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()


class FullCanvas:
    """Our network as the public loops call theirs: tokens in, logits of every position out."""

    def __init__(self, network: Transformer, probe: bench.Probe):
        """Around one network."""
        self.network, self.probe = network, probe
        self.layout: Layout = Full()
        self.device = network.forbidden_V.device
        self._logits = probe.watch.around(self._run)

    def __call__(self, tokens_BL: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """`.logits` (B, L, V)."""
        assert attention_mask is None or bool(attention_mask.all())
        self.probe.count(tokens_BL)
        return SimpleNamespace(logits=self._logits(tokens_BL))

    def _run(self, tokens_BL: Tensor) -> Tensor:
        place_BL = torch.arange(tokens_BL.shape[1], device=self.device).expand_as(tokens_BL)
        return self.network.readout(self.network.encode(tokens_BL, where=self._where(place_BL), layout=self.layout))

    def _where(self, place_BL: Tensor) -> Where:
        return Where(place_BL, None)


class BlockCanvas(FullCanvas, nn.Module):
    """The same in the block layout, the last block being the one that is written; a module, as pipelines want one."""

    def __init__(self, network: Transformer, probe: bench.Probe, block: int):
        """Around one network."""
        nn.Module.__init__(self)
        FullCanvas.__init__(self, network, probe)
        self.layout, self.block = Block(), block

    def forward(self, tokens_BL: Tensor, attention_mask: Tensor, position_ids: Tensor) -> SimpleNamespace:
        """`.logits` (B, L, V)."""
        return FullCanvas.__call__(self, tokens_BL)

    def __call__(self, *args: Any, **named: Any) -> Any:
        """As `forward`."""
        return self.forward(*args, **named)

    def _where(self, place_BL: Tensor) -> Where:
        block_BL = place_BL // self.block
        return Where(place_BL, torch.zeros_like(place_BL), block_BL, block_BL < block_BL[:, -1:])


@torch.no_grad()
def full_canvas_loop(
    model: Callable[[Tensor], Any], prompt_BP: Tensor, *, steps: int, gen_length: int, mask_id: int
) -> Tensor:
    """What the public LLaDA loop does at temperature 0, for when it is not at hand.

    Each step takes the logits and the softmax of the whole canvas and writes gen_length / steps tokens, those whose
    probability is highest. `steps` must divide `gen_length`.
    """
    rows, prompt = prompt_BP.shape
    tokens_BL = torch.full((rows, prompt + gen_length), mask_id, device=prompt_BP.device)
    tokens_BL[:, :prompt] = prompt_BP
    for _ in range(steps):
        logits_BLV = model(tokens_BL).logits
        best_BL = logits_BLV.argmax(dim=-1)
        probability_BL = logits_BLV.softmax(dim=-1).gather(-1, best_BL[..., None]).squeeze(-1)
        score_BL = probability_BL.masked_fill(tokens_BL != mask_id, float("-inf"))
        chosen_BC = score_BL.topk(gen_length // steps, dim=1).indices
        tokens_BL.scatter_(1, chosen_BC, best_BL.gather(1, chosen_BC))
    return tokens_BL


def llama(
    m: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    probe: bench.Probe,
    *,
    new: int,
    never: int,
    compiled: bool = False,
    weights: Transformer | None = None,
) -> tuple[str, Callable[[Tensor], Tensor]]:
    """transformers' Llama of the same size, writing greedily with its key-value cache.

    Args:
        m: its sizes.
        device: where.
        dtype: its precision.
        probe: counts its forwards.
        new: tokens to write.
        never: ids below this one are not written.
        compiled: its forward compiled as our trunk is, with a static cache.
        weights: the network whose weights it gets; None = random ones.

    Returns:
        Its name with the version, and a function from prompt_BP to tokens_BL.

    Raises:
        ImportError: transformers is not installed.
    """
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=m.vocab_size,
        hidden_size=m.width,
        intermediate_size=m.mlp_width,
        num_hidden_layers=m.layers,
        num_attention_heads=m.heads,
        num_key_value_heads=m.heads,
        max_position_embeddings=m.context,
        rms_norm_eps=m.norm_eps,
        rope_theta=m.rope_theta,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,  # so that it never stops early
        pad_token_id=0,
    )
    network = transformers.LlamaForCausalLM(config)
    if weights is not None:
        network.load_state_dict({LLAMA.tensor(name): value for name, value in weights.state_dict().items()})
        network.to(device, dtype).eval().requires_grad_(False)
    else:
        _prepare(network, network.lm_head, never, device, dtype)
    if compiled:
        network.forward = _compiled(network.forward, device)
    watch(network, probe)
    options: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "use_cache": True}
    if compiled:
        options |= {"cache_implementation": "static", "disable_compile": True}  # it is compiled already

    def write(prompt_BP: Tensor) -> Tensor:
        return network.generate(prompt_BP, attention_mask=torch.ones_like(prompt_BP), **options)

    return f"transformers {transformers.__version__} Llama", write


def fast_dllm(
    path: Path,
    cache: str,
    m: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    probe: bench.Probe,
    *,
    never: int,
    weights: Transformer | None = None,
    **options: Any,
) -> Callable[[Tensor], Tensor]:
    """Fast-dLLM's loop with its own LLaDA network of the same size.

    Args:
        path: of its llada/generate.py.
        cache: none, prefix or dual.
        m: the sizes.
        device: where.
        dtype: its precision.
        probe: counts its forwards.
        never: ids below this one are not written.
        weights: the network whose weights it gets; None = random ones.
        options: of its loop.

    Returns:
        A function from prompt_BP, of one row, to tokens_BL.

    Raises:
        ImportError: what it needs (transformers, einops) is not installed.
    """
    peer, network = llada_network(path, m, device, dtype, never=never, weights=weights)
    watch(network, probe)
    loop = peer.generate if cache == "none" else getattr(peer, f"generate_with_{cache}_cache")
    return lambda prompt_BP: loop(network, prompt_BP, **options)[0]


def llada_network(
    path: Path,
    m: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    never: int,
    weights: Transformer | None = None,
) -> tuple[ModuleType, nn.Module]:
    """Fast-dLLM's llada/generate.py, and LLaDA's network as it stands beside it; arguments as in `fast_dllm`."""
    sys.path.insert(0, str(path.parent))  # its files import one another by bare names
    try:
        peer = load_file(path)
    finally:
        sys.path.pop(0)
    never_used = {"eos_token_id": 0, "pad_token_id": 0, "mask_token_id": 0}
    no_dropout = dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), 0.0)
    config = peer.LLaDAModelLM.config_class(
        d_model=m.width,
        n_heads=m.heads,
        n_layers=m.layers,
        mlp_hidden_size=m.mlp_width,
        vocab_size=m.vocab_size,
        embedding_size=m.vocab_size,
        max_sequence_length=m.context,
        rope_theta=m.rope_theta,
        rms_norm_eps=m.norm_eps,
        include_bias=False,
        block_type="llama",  # these four as in LLaDA-8B's own configuration
        activation_type="silu",
        layer_norm_type="rms",
        rope=True,
        weight_tying=False,
        init_device="cpu",
        **never_used,
        **no_dropout,
    )
    config.use_cache = False  # transformers 5 drops it from its arguments
    network = peer.LLaDAModelLM(config)
    if weights is None:
        _prepare(network, network.get_output_embeddings(), never, device, dtype)
    else:
        network.load_state_dict({LLADA.tensor(name): value for name, value in weights.state_dict().items()})
        network.to(device, dtype).eval().requires_grad_(False)
    return peer, network


def dllm(
    folder: Path, cache: str, model: Callable[..., Any], *, mask_id: int, end_id: int, **options: Any
) -> Callable[[Tensor], Tensor]:
    """dLLM's samplers: its LLaDA loop, or its version of Fast-dLLM.

    Args:
        folder: a checkout.
        cache: none, its `MDLMSampler`; prefix or dual, its `FastdLLMLLaDASampler`.
        model: a network that it can call; one of `llada_network` for the caches.
        mask_id: the mask.
        end_id: the end of text.
        options: steps, max_new_tokens, block_size.

    Raises:
        ImportError: transformers is not installed.
    """
    for name in ("dllm", "dllm.core", "dllm.pipelines", "dllm.pipelines.fastdllm", "dllm.pipelines.fastdllm.llada"):
        package = ModuleType(name)  # its own __init__ files import trainers and a harness, with all that these need
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, package)
    if cache == "none":
        from dllm.core.samplers.mdlm import MDLMSampler as Chosen
    else:
        from dllm.pipelines.fastdllm.llada.sampler import FastdLLMLLaDASampler as Chosen

        options["use_cache"] = cache
    ids = SimpleNamespace(mask_token_id=mask_id, eos_token_id=end_id, bos_token_id=end_id)
    sampler = Chosen(model=model, tokenizer=ids)
    return lambda prompt_BP: sampler.sample([row.tolist() for row in prompt_BP], **options)


def llada2_pipeline(
    network: Transformer, probe: bench.Probe, *, new: int, block: int, steps: int, mask_id: int
) -> tuple[str, Callable[[Tensor], Tensor]]:
    """diffusers' LLaDA2Pipeline around our network in the block layout; it keeps nothing between steps.

    Args:
        network: ours.
        probe: counts its forwards.
        new: tokens to write.
        block: tokens a block.
        steps: of each block; so many that the threshold, which nothing reaches, never counts.
        mask_id: the mask.

    Returns:
        Its name with the version, and a function from prompt_BP to tokens_BL.

    Raises:
        ImportError: diffusers is not installed, or too old.
    """
    import diffusers

    scheduler = diffusers.BlockRefinementScheduler(block_length=block)
    pipeline = diffusers.LLaDA2Pipeline(model=BlockCanvas(network, probe, block), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"gen_length": new, "block_length": block, "num_inference_steps": steps}
    settings |= {"threshold": 2.0, "editing_threshold": None, "eos_early_stop": False, "mask_token_id": mask_id}
    settings |= {"sampling_method": "greedy", "output_type": "seq"}

    def write(prompt_BP: Tensor) -> Tensor:
        return torch.cat((prompt_BP, pipeline(input_ids=prompt_BP, **settings).sequences), dim=1)

    return f"diffusers {diffusers.__version__} LLaDA2Pipeline", write


def _prepare(network: nn.Module, head: nn.Linear, never: int, device: torch.device, dtype: torch.dtype) -> None:
    """Random weights, of which the first `never` tokens get the logit 0: never the highest of thousands."""
    bench.randomise(network)
    network.to(device, dtype).eval().requires_grad_(False)
    head.weight[:never] = 0


def watch(network: nn.Module, probe: bench.Probe) -> None:
    """Count and time its forwards."""

    def count(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        probe.count(args[0] if args else named["input_ids"])

    network.forward = probe.watch.around(network.forward)
    network.register_forward_pre_hook(count, with_kwargs=True)


def _compiled(forward: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """With the options of `sfumato.sample.compiled`."""
    if device.type == "cuda":
        return torch.compile(forward, dynamic=False, mode="reduce-overhead")
    return torch.compile(forward, dynamic=False, options={"freezing": True, "cpp_wrapper": True})
