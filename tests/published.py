"""The decoding loops that LLaDA, Dream and Fast-dLLM have published, once more: plain, one row, no cleverness.

They share nothing with the package but the weights. `Written.steps` holds the places that each forward wrote, forwards
that wrote nothing included. Ties of the scores go to the left, where the published programs leave them to `torch.topk`.

Shape letters: L canvas length, Q places run, K places read, N places judged, V vocabulary, D width, H heads, E head
width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato import rng
from sfumato.config import ModelConfig
from sfumato.model.transformer import Attention, Transformer

MASK, END, VOCABULARY = 0, 1, 40
_FAMILIES = {
    "llada": {"norm_eps": 1e-5, "rope_theta": 5e5},
    "dream": {"norm_eps": 1e-6, "rope_theta": 1e6, "qkv_bias": True, "kv_heads": 1},
}


def random_network(family: str, seed: int) -> Transformer:
    """A tiny network with the architecture of a family, float64; the same weights on every machine.

    The mask's logit is 0 everywhere: it takes part in the softmax and is never the highest.
    """
    sizes = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32, "vocab_size": VOCABULARY, "context": 128}
    form = {"tied": False, "qk_norm": False, "scale_embeddings": False}
    network = Transformer(ModelConfig(**sizes, **form, **_FAMILIES[family])).double()
    for number, (name, parameter) in enumerate(network.named_parameters()):
        noise = rng.normal(torch.arange(parameter.numel()), seed, number).view_as(parameter)
        if parameter.ndim == 2:
            scale = {"embedding.weight": 4.0, "head.weight": 2.5}.get(name, 1.5)
            parameter.data = noise * scale * parameter.shape[1] ** -0.5
        elif name.endswith(".bias"):
            parameter.data = noise * 0.2
    assert network.head is not None
    network.head.weight.data[MASK] = 0
    return network.eval().requires_grad_(False)


@dataclass
class Written:
    """What a loop has written."""

    tokens: list[int]
    steps: list[list[int]] = field(default_factory=list)

    @property
    def nfe(self) -> int:
        """Forwards, each guided one counted twice where there is guidance."""
        return len(self.steps)

    def commit(self, places: list[int], token_of: dict[int, int]) -> None:
        """Write these places; ends the step."""
        for place in places:
            self.tokens[place] = token_of[place]
        self.steps.append(sorted(places))

    def masks(self, begin: int, end: int) -> list[int]:
        """The masks between two places."""
        return [place for place in range(begin, end) if self.tokens[place] == MASK]


Keys = list[tuple[Tensor, Tensor]]


def forward(network: Transformer, tokens: list[int], begin: int = 0, end: int | None = None, old: Keys | None = None):
    """logits_QV of the places from begin to end, and the keys and values that they saw.

    Args:
        network: the weights.
        tokens: the row.
        begin: the first place that is run.
        end: where it ends.
        old: keys and values (K, H, E) of an earlier forward, for all other places.
    """
    end = len(tokens) if end is None else end
    run, config, seen = slice(begin, end), network.config, []
    x_QD = network.embedding.weight[torch.tensor(tokens[run])]
    for layer, block in enumerate(network.blocks):
        y_QD = F.rms_norm(x_QD, (config.width,), block.attention_norm, config.norm_eps)
        k_QHE, v_QHE = (_heads(y_QD, part, config) for part in (block.attention.key, block.attention.value))
        k_QHE = _turned(k_QHE, begin, config)
        if old is not None:
            k_KHE, v_KHE = (kept.clone() for kept in old[layer])
            k_KHE[run], v_KHE[run] = k_QHE, v_QHE
        else:
            k_KHE, v_KHE = k_QHE, v_QHE
        seen.append((k_KHE, v_KHE))
        q_QHE = _turned(_heads(y_QD, block.attention.query, config), begin, config)
        x_QD = x_QD + block.attention.out(_attended(q_QHE, k_KHE, v_KHE, block.attention))
        y_QD = F.rms_norm(x_QD, (config.width,), block.mlp_norm, config.norm_eps)
        x_QD = x_QD + block.down(F.silu(block.gate(y_QD)) * block.up(y_QD))
    assert network.head is not None
    return network.head(F.rms_norm(x_QD, (config.width,), network.final_norm, config.norm_eps)), seen


def _heads(y_QD: Tensor, matrix: torch.nn.Linear, config: ModelConfig) -> Tensor:
    return matrix(y_QD).view(len(y_QD), -1, config.head_size)


def _turned(x_QHE: Tensor, begin: int, config: ModelConfig) -> Tensor:
    place_Q = torch.arange(begin, begin + len(x_QHE), dtype=torch.float32)
    turn_E = 1.0 / config.rope_theta ** (torch.arange(0, config.head_size, 2).float() / config.head_size)
    angle_Q1E = (place_Q[:, None] * turn_E).repeat(1, 2)[:, None]
    a, b = x_QHE.chunk(2, dim=-1)
    return x_QHE * angle_Q1E.cos().double() + torch.cat((-b, a), dim=-1) * angle_Q1E.sin().double()


def _attended(q_QHE: Tensor, k_KHE: Tensor, v_KHE: Tensor, attention: Attention) -> Tensor:
    share = attention.heads // attention.kv_heads
    k_KHE, v_KHE = k_KHE.repeat_interleave(share, dim=1), v_KHE.repeat_interleave(share, dim=1)
    score_HQK = torch.einsum("qhe,khe->hqk", q_QHE, k_KHE) / attention.head_width**0.5
    return torch.einsum("hqk,khe->qhe", score_HQK.softmax(-1), v_KHE).flatten(1)


# --- which places


def _best(places: list[int], score: dict[int, float], count: int) -> list[int]:
    return sorted(places, key=lambda place: -score[place])[:count]


def _confident(logits_QV: Tensor, first: int, places: list[int]) -> tuple[dict[int, int], dict[int, float]]:
    """The most probable token of each place, and its probability."""
    p_NV = logits_QV[[place - first for place in places]].softmax(-1)
    p_N, token_N = p_NV.max(-1)
    return dict(zip(places, token_N.tolist(), strict=True)), dict(zip(places, p_N.tolist(), strict=True))


Rule = Callable[[list[int], dict[int, float], int], list[int]]
"""From the masks of a block, their confidences and the number of the step to what is written."""


def per_step(count: int, steps: int) -> Rule:
    """LLaDA: the surest, so many in each step that the remainder goes to the earliest."""
    return lambda places, score, i: _best(places, score, count // steps + (i < count % steps))


def at_least(threshold: float) -> Rule:
    """Fast-dLLM: all from a threshold on, and the surest in any case."""

    def rule(places: list[int], score: dict[int, float], i: int) -> list[int]:
        return sorted({*_best(places, score, 1), *(place for place in places if score[place] >= threshold)})

    return rule


def by_factor(factor: float) -> Rule:
    """Fast-dLLM: the n surest for the largest n whose last probability is at least 1 - factor / (n + 1)."""

    def rule(places: list[int], score: dict[int, float], i: int) -> list[int]:
        order = _best(places, score, len(places))
        fits = [n for n, place in enumerate(order, 1) if n == 1 or score[place] >= 1 - factor / (n + 1)]
        return order[: max(fits)]

    return rule


# --- the loops


def llada(network: Transformer, prompt: list[int], new: int, *, block: int, steps: int, cfg: float = 0.0) -> Written:
    """LLaDA's `generate` at temperature 0, in low-confidence order."""
    written = Written([*prompt, *[MASK] * new])
    blocks = new // block
    for begin in range(len(prompt), len(prompt) + new, block):
        rule = per_step(block, steps // blocks)
        for i in range(steps // blocks):
            logits_LV = forward(network, written.tokens)[0]
            if cfg:
                hidden = [MASK] * len(prompt) + written.tokens[len(prompt) :]
                without_LV = forward(network, hidden)[0]
                logits_LV = without_LV + (cfg + 1) * (logits_LV - without_LV)
            places = written.masks(begin, begin + block)
            token_of, score = _confident(logits_LV, 0, places)
            written.commit(rule(places, score, i), token_of)
    return written


def fast_dllm(network: Transformer, prompt: list[int], new: int, *, block: int, rule: Rule, cache: str) -> Written:
    """Fast-dLLM's loops for LLaDA: the first step of a block runs everything, the others the rest, or the block."""
    written = Written([*prompt, *[MASK] * new])
    length = len(written.tokens)
    for begin in range(len(prompt), length, block):
        old, i = None, 0
        while places := written.masks(begin, begin + block):
            first, end = 0, length
            if i and cache != "none":
                first, end = begin, begin + block if cache == "dual" else length
            logits_QV, seen = forward(network, written.tokens, first, end, old if first else None)
            old = seen if old is None else old
            token_of, score = _confident(logits_QV, first, places)
            written.commit(rule(places, score, i), token_of)
            i += 1
    return written


def dream(
    network: Transformer, prompt: list[int], new: int, *, steps: int, order: str, top_k: int = 0, top_p: float = 1.0
) -> Written:
    """Dream's `diffusion_generate` at temperature 0: maskgit_plus (confidence), topk_margin or entropy."""
    written = Written([*prompt, *[MASK] * new])
    for i in range(steps):
        if places := written.masks(len(prompt), len(written.tokens)):
            logits_LV = forward(network, written.tokens)[0].roll(1, 0)
            count = len(places) if i + 1 == steps else int(len(places) * _share(i, steps))
            written.commit(*_dream_step(logits_LV, 0, places, order, count, top_k, top_p))
    return written


def fast_dream(
    network: Transformer, prompt: list[int], new: int, *, block: int, steps: int, threshold: float | None, cache: str
) -> Written:
    """Fast-dLLM's block loop for Dream: each block's first step writes its first place alone.

    Then by threshold, or in the order of entropy and at Dream's pace.
    """
    written = Written([*prompt, *[MASK] * new])
    length, count = len(written.tokens), steps // (new // block)
    for begin in range(len(prompt), length, block):
        logits_LV, old = forward(network, written.tokens)
        written.commit([begin], {begin: int(logits_LV[begin - 1].argmax())})
        i, end = 1, begin + block if cache == "dual" else length
        while places := written.masks(begin, begin + block):
            logits_QV = forward(network, written.tokens, begin, end, old)[0].roll(1, 0)
            if threshold is not None:
                token_of, score = _confident(logits_QV, begin, places)
                written.commit(at_least(threshold)(places, score, i), token_of)
            else:
                due = len(places) if i + 1 == count else int(len(places) * _share(i, count))
                written.commit(*_dream_step(logits_QV, begin, places, "entropy", due, 0, 1.0))
            i += 1
    return written


def _share(i: int, steps: int) -> float:
    level = torch.linspace(1, 1e-3, steps + 1)
    return float(1 - level[i + 1] / level[i])


def _dream_step(
    logits_QV: Tensor, first: int, places: list[int], order: str, count: int, top_k: int, top_p: float
) -> tuple[list[int], dict[int, int]]:
    score, token_of = {}, {}
    for place in places:
        logits_V = logits_QV[place - first]
        best_V = logits_V.sort(descending=True)
        before_V = best_V.values.softmax(-1).cumsum(-1) - best_V.values.softmax(-1)
        kept = [int(v) for n, v in enumerate(best_V.indices) if n == 0 or (before_V[n] < top_p and n < (top_k or 999))]
        p = logits_V[kept].softmax(-1)
        second = float(p[1]) if len(p) > 1 else 0.0
        token_of[place] = kept[0]
        score[place] = {
            "confidence": float(p[0]),
            "margin": float(p[0]) - second,
            "entropy": float((p * (p + 1e-10).log()).sum()),
        }[order]
    return _best(places, score, count), token_of
