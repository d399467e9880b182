"""Our transformer: pre-RMSNorm, rotary positions, SwiGLU, QK-norm, grouped keys, tied embeddings.

With other settings of `ModelConfig` it is the network of LLaDA, Dream, Qwen or Llama (`model.hub`).

Two halves, `encode` and `readout`, so that logits exist only where somebody reads them.

Shape letters: B rows, Q positions run, K key positions, N scored positions, D width, V vocabulary, H heads,
E head width.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.canvas import Where
from sfumato.config import ModelConfig
from sfumato.model.cache import Cache, Kept
from sfumato.model.layout import Layout, visible
from sfumato.model.quantised import QuantisedMatrix, quantised_parameters

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Denoiser(Protocol):
    """A network in two halves."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Float vectors, one a token, of the norm sqrt(their size); only where a process noises embeddings."""
        ...

    def encode(
        self,
        inputs_BQ: Tensor,
        *,
        where: Where,
        layout: Layout,
        t_BQ: Tensor | None = None,
        read_N: Tensor | None = None,
        kept: Kept | None = None,
    ) -> Tensor:
        """hidden_BQD of tokens or vectors, or hidden_ND at the flat positions read_N; `kept` adds earlier keys."""
        ...

    def readout(self, hidden_ND: Tensor, head: str = "token") -> Tensor:
        """logits_NV, -inf for tokens that are never written; head "gap", where there is one: log_rate_N."""
        ...

    def empty_cache(self, rows: int, slots: int) -> Cache:
        """Room for what it keeps of so many places of so many rows."""
        ...


class _Normalise(torch.autograd.Function):
    """x / rms(x) over the last axis, in float32 or better; the eager backward of `F.rms_norm` is 1.5x slower on CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, eps: float) -> Tensor:  # noqa: ANN001
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        y = (wide * scale).to(x.dtype)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        y, scale = ctx.saved_tensors
        grad = grads[0].to(scale.dtype)
        along = torch.linalg.vecdot(grad, y.to(scale.dtype)).unsqueeze(-1).div_(y.shape[-1])
        return torch.addcmul(grad, y, along, value=-1).mul_(scale).to(y.dtype), None


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation with a learned gain (Zhang and Sennrich 2019)."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Normalise.apply(x, eps) * weight_D
    # Under autocast x can be bfloat16 and the gain float32; mixed, torch warns and takes a slow path.
    return F.rms_norm(x, (x.shape[-1],), weight_D.to(x.dtype), eps)


def rotary_tables(position_BQ: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cos and sin, float32 (B, 1, Q, E/2), for rotary positions in the half layout (Su et al. 2021, RoFormer)."""
    exponent = torch.arange(0, head_width, 2, device=position_BQ.device, dtype=torch.float32) / head_width
    angle = position_BQ.clamp(min=0)[:, None, :, None].float() * (1.0 / theta**exponent)  # as everybody rounds it
    return angle.cos(), angle.sin()


def rotate(x_BHQE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + E/2) by its position's angle."""
    a, b = x_BHQE.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x_BHQE.dtype)


Mask = Union[Tensor, "BlockMask", None]
_Slots = tuple[int, Kept] | None  # the number of the layer, and the keys it keeps


class Attention(nn.Module):
    """Multi-head attention, with grouped keys and QK-norm where the configuration asks for them."""

    def __init__(self, config: ModelConfig):
        """config: width, heads, kv_heads (0 = heads), head_width (0 = width / heads), qk_norm and biases."""
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads or config.heads
        self.head_width = config.head_size
        self.eps = config.norm_eps
        self.query = nn.Linear(config.width, self.heads * self.head_width, bias=config.qkv_bias)
        self.key = nn.Linear(config.width, self.kv_heads * self.head_width, bias=config.qkv_bias)
        self.value = nn.Linear(config.width, self.kv_heads * self.head_width, bias=config.qkv_bias)
        self.out = nn.Linear(self.heads * self.head_width, config.width, bias=config.bias)
        self.query_norm = nn.Parameter(torch.ones(self.head_width)) if config.qk_norm else None
        self.key_norm = nn.Parameter(torch.ones(self.head_width)) if config.qk_norm else None

    def forward(self, x_BQD: Tensor, rotary: tuple[Tensor, Tensor], mask_B1QK: Mask, kept: _Slots) -> Tensor:
        """What each position gathers, before the output matrix; the mask is added to the scores, None = all seen."""
        rows, length, _ = x_BQD.shape
        q = self.query(x_BQD).view(rows, length, self.heads, self.head_width).transpose(1, 2)
        k = self.key(x_BQD).view(rows, length, self.kv_heads, self.head_width).transpose(1, 2)
        v = self.value(x_BQD).view(rows, length, self.kv_heads, self.head_width).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = rms_norm(q, self.query_norm, self.eps), rms_norm(k, self.key_norm, self.eps)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        if kept is not None:
            layer, slots = kept
            k, v = (x.transpose(1, 2) for x in slots.exchange(layer, k.transpose(1, 2), v.transpose(1, 2)))
        if mask_B1QK is None or isinstance(mask_B1QK, Tensor):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1QK, enable_gqa=self.kv_heads != self.heads)
        else:
            from sfumato.model.flex import attend

            out = attend(q, k, v, mask_B1QK)
        return out.transpose(1, 2).reshape(rows, length, -1)


class Block(nn.Module):
    """One pre-norm layer: attention, then SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0):
        """config: the widths; dropout: share of what the layer adds that training leaves out."""
        super().__init__()
        self.dropout, self.eps = dropout, config.norm_eps
        self.attention_norm = nn.Parameter(torch.ones(config.width))
        self.attention = Attention(config)
        self.mlp_norm = nn.Parameter(torch.ones(config.width))
        self.gate = nn.Linear(config.width, config.mlp_width, bias=config.bias)
        self.up = nn.Linear(config.width, config.mlp_width, bias=config.bias)
        self.down = nn.Linear(config.mlp_width, config.width, bias=config.bias)

    def forward(
        self,
        x_BQD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask_B1QK: Mask,
        read_N: Tensor | None = None,
        kept: _Slots = None,
    ) -> Tensor:
        """One layer; with read_N only those flat positions go on after the attention, as (N, D)."""
        gathered = self.attention(rms_norm(x_BQD, self.attention_norm, self.eps), rotary, mask_B1QK, kept)
        x = x_BQD
        if read_N is not None:
            gathered = gathered.flatten(0, 1).index_select(0, read_N)
            x = x_BQD.flatten(0, 1).index_select(0, read_N)
        x = x + F.dropout(self.attention.out(gathered), self.dropout, self.training)
        y = rms_norm(x, self.mlp_norm, self.eps)
        return x + F.dropout(self.down(F.silu(self.gate(y)) * self.up(y)), self.dropout, self.training)


def _draw(name: str, weight: Tensor, generator: torch.Generator) -> None:
    """Give one of a new network's weights its value, in place.

    By torch's own functions: the transformers library has them spare what it has read from a file.
    """
    if name.endswith(("out.weight", "down.weight", "time.2.weight", "gap.weight", ".bias")):
        nn.init.zeros_(weight)
    elif weight.ndim == 2:
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)


class Transformer(nn.Module):
    """The denoiser that we train from scratch."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        never_written: Sequence[int] = (),
        gradient_checkpointing: bool = False,
        dropout: float = 0.0,
    ):
        """Build with random weights.

        Args:
            config: sizes; `vocab_size` must be set.
            never_written: token ids whose logit is -inf (mask, padding, start of text).
            gradient_checkpointing: recompute each layer in the backward pass to save memory.
            dropout: share of each layer's output that is dropped in training mode.
        """
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(f"model.vocab_size must be set before the network is built: got {config.vocab_size}")
        self.config = config
        self.gradient_checkpointing = gradient_checkpointing
        self.embedding = nn.Embedding(config.vocab_size, config.latent or config.width)
        # Of vectors, and of the previous prediction where there is one.
        latent = config.latent * (2 if config.self_conditioning else 1)
        self.project = nn.Linear(latent, config.width, bias=False) if latent else None
        self.time = (
            nn.Sequential(nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
            if config.time_conditioning
            else None
        )
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        self.final_norm = nn.Parameter(torch.ones(config.width))
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.gap = nn.Linear(config.width, 1) if config.gap_head else None
        self.forbidden_V: Tensor
        self.forbid(never_written)

    def forbid(self, never_written: Sequence[int]) -> None:
        """Let the logits of these tokens be -inf from now on, and no others."""
        device = self.embedding.weight.device
        # It is in no file, so that it has its values even where the weights wait for theirs.
        bias_V = torch.zeros(self.config.vocab_size, device="cpu" if device.type == "meta" else device)
        bias_V[list(never_written)] = float("-inf")
        # As a bias of the readout, forbidding a token costs no pass over the logits.
        self.register_buffer("forbidden_V", bias_V, persistent=False)

    def blank(self) -> "Transformer":
        """Another network like this one, which drops nothing, with weights that say nothing yet."""
        return Transformer(self.config, never_written=self.forbidden_V.isinf().nonzero().flatten().tolist())

    def initialise(self, seed: int) -> "Transformer":
        """Draw the weights: normal with sd 1/sqrt(fan-in), 0 for what writes to the residual stream, 1 for gains."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            _draw(name, parameter, generator)
        return self

    def drawn(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """What `initialise` would draw, one by one; this network's own weights are not touched."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            value = torch.ones(parameter.shape)
            _draw(name, value, generator)
            yield name, value

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors (..., E) of tokens (...), of unit mean square, on the network's device: what is noised.

        Their norm is fixed: else the smallest loss would have all of them in one point, or ever larger ones.
        """
        vectors = self.embedding(tokens.to(self.embedding.weight.device))
        return F.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5

    def _enter(self, inputs_BQ: Tensor) -> Tensor:
        """What the first layer reads, (B, Q, D)."""
        if self.project is None:
            embedded = inputs_BQ if inputs_BQ.is_floating_point() else self.embedding(inputs_BQ)
            # Ours to unit size: the same table reads in and out, and as a readout it must be small.
            return embedded * self.config.width**0.5 if self.config.scale_embeddings else embedded
        missing = self.project.in_features - inputs_BQ.shape[-1]  # no previous prediction, or one that is not read
        return self.project(F.pad(inputs_BQ, (0, missing)).to(self.project.weight.dtype))

    def embed_time(self, t_BQ: Tensor) -> Tensor:
        """A smooth function of the noise level, (B, Q, D)."""
        assert self.time is not None
        half = self.config.width // 2
        frequency = torch.exp(torch.linspace(0.0, 6.9, half, device=t_BQ.device))  # 1 to 1000 rad per unit of t
        angle = t_BQ[..., None].float() * frequency
        code = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return self.time(F.pad(code, (0, self.config.width - 2 * half)).to(self.final_norm.dtype))

    def encode(
        self,
        inputs_BQ: Tensor,
        *,
        where: Where,
        layout: Layout,
        t_BQ: Tensor | None = None,
        read_N: Tensor | None = None,
        kept: Kept | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """Run the trunk.

        Args:
            inputs_BQ: int64 tokens, or their embeddings (B, Q, D); of a gaussian model vectors (B, Q, E), or (B, Q, 2E)
                with the previous prediction of the clean ones.
            where: who each position is; documents do not see one another.
            layout: what is visible.
            t_BQ: noise levels, read only by a time-conditioned network.
            read_N: flat positions (int64 into B*Q) whose hidden state is wanted. After the last attention nobody sees
                the others, so the last layer leaves them out; None = all.
            kept: keys and values of earlier forwards, which this one adds to and reads; None = this forward is alone.
            layers: run only so many, and at least one with `read_N`; None = all.

        Returns:
            hidden_ND, or hidden_BQD without read_N: normalised, ready for `readout`.
        """
        x_BQD = self._enter(inputs_BQ)
        if self.time is not None:
            assert t_BQ is not None, "a time-conditioned network needs t"
            x_BQD = x_BQD + self.embed_time(t_BQ).to(x_BQD.dtype)
        rotary = rotary_tables(where.position_BQ, self.config.head_size, self.config.rope_theta)
        mask_B1QK = self._mask(layout, where, kept, x_BQD)
        blocks = self.blocks[:layers]
        for i, block in enumerate(blocks):
            reads = read_N if i + 1 == len(blocks) else None
            slots = None if kept is None else (i, kept)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x_BQD = checkpoint(block, x_BQD, rotary, mask_B1QK, reads, slots, use_reentrant=False)
            else:
                x_BQD = block(x_BQD, rotary, mask_B1QK, reads, slots)
        return rms_norm(x_BQD, self.final_norm, self.config.norm_eps)

    @staticmethod
    def _mask(layout: Layout, where: Where, kept: Kept | None, x_BQD: Tensor) -> "Tensor | BlockMask | None":
        """What is added to the scores: 0 where visible, -inf elsewhere; made once, where each layer would make its own.

        On a GPU one pass over two copies of the text gets the rule itself instead.
        """
        if layout.two_streams and kept is None and x_BQD.device.type == "cuda":
            from sfumato.model.flex import tiles

            return tiles(layout, where)
        visible_BQK = visible(layout, where, where if kept is None else kept.where)
        if visible_BQK is None:
            return None
        autocast = torch.is_autocast_enabled(x_BQD.device.type)
        dtype = torch.get_autocast_dtype(x_BQD.device.type) if autocast else x_BQD.dtype
        mask_BQK = torch.zeros(visible_BQK.shape, dtype=dtype, device=x_BQD.device)
        return mask_BQK.masked_fill_(~visible_BQK, float("-inf"))[:, None]

    def readout(self, hidden_ND: Tensor, head: str = "token") -> Tensor:
        """What a head makes of hidden states; the leading axes may be any.

        Args:
            hidden_ND: from `encode`.
            head: "token": logits_NV, -inf where a token is never written. "gap" (`config.gap_head`): log_rate_N, the
                log of the rate at which tokens appear right after a position, per unit of alpha.
        """
        if head == "gap":
            assert self.gap is not None, "this network has no gap head"
            return self.gap(hidden_ND).squeeze(-1)
        table = self.embedding if self.head is None else self.head
        if isinstance(table, QuantisedMatrix):
            return table.product(hidden_ND) + self.forbidden_V.to(hidden_ND.dtype)
        weight_VD = table.weight
        return F.linear(hidden_ND, weight_VD, self.forbidden_V.to(weight_VD.dtype))

    def empty_cache(self, rows: int, slots: int) -> Cache:
        """Buffers for the keys and values of `rows` rows of at most `slots` positions."""
        config = self.config
        heads = config.kv_heads or config.heads
        like = self.final_norm
        return Cache.empty(config.layers, heads, config.head_size, rows, slots, like=like)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the matrices with a row for each token."""
        return ("embedding.weight",) if self.head is None else ("embedding.weight", "head.weight")

    def num_parameters(self) -> int:
        """How many numbers are learned, or were before they were quantised."""
        return sum(parameter.numel() for parameter in self.parameters()) + quantised_parameters(self)
