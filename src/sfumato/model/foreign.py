"""A network of the `transformers` library as a denoiser: its own class computes, our layouts say who sees whom.

Of each class of `model.families`, `encode` runs the trunk and `readout` the class's own forward with the trunk left
out, so that whatever it does to the logits (a transform, a softcap, a scale) is done here too.

Shape letters: B rows, Q positions run, K key positions, N scored positions, D width, V vocabulary, H heads,
E head width.
"""

import copy
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sfumato.canvas import Where
from sfumato.config import ConfigError
from sfumato.model.cache import Cache, Kept
from sfumato.model.families import CAUSAL, build_class, layer_kinds
from sfumato.model.layout import Layout, visible

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class Foreign(nn.Module):
    """The denoiser around one of the library's classes; parameters have the library's names."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        never_written: Sequence[int] = (),
        gradient_checkpointing: bool = False,
        dropout: float = 0.0,
    ):
        """Build without weights: memory is taken when they are loaded.

        Args:
            config: the library's configuration, as `describe` has checked it.
            never_written: token ids whose logit is -inf.
            gradient_checkpointing: recompute each layer in the backward pass to save memory.
            dropout: share that training drops, wherever the class has a dropout.

        Raises:
            ConfigError: transformers is not installed, or a family that is not among `FAMILIES`.
        """
        super().__init__()
        self._given = dict(config)
        network = build_class(config, dropout)
        if gradient_checkpointing:
            newer = getattr(network, "activation_checkpointing_enable", None)  # of transformers, where the other warns
            (newer or network.gradient_checkpointing_enable)({"use_reentrant": False})
        # The network's modules become ours, so that every name is the library's; in a tuple it is no module of ours.
        self._network = (network,)
        self.__dict__["_modules"] = network._modules
        self.config: PreTrainedConfig = network.config
        self.causal = self.config.model_type in CAUSAL
        self.trunk_name = network.base_model_prefix
        trunk = getattr(self, self.trunk_name)
        self._accepts = frozenset(signature(trunk.forward).parameters)
        places = next((m for n, m in trunk.named_modules() if n.endswith("position_embeddings")), None)
        # RoBERTa counts its places from behind the padding's id.
        padding = getattr(places, "padding_idx", None)
        self._first_place = 0 if padding is None else padding + 1
        bias_V = torch.zeros(self.config.vocab_size, device="cpu")
        bias_V[list(never_written)] = float("-inf")
        self.register_buffer("forbidden_V", bias_V, persistent=False)
        self.forbidden_V: Tensor
        self._aliases = _aliases(self)
        self.register_state_dict_post_hook(_drop_aliases)
        self.register_load_state_dict_pre_hook(_add_aliases)
        self.register_load_state_dict_post_hook(_tie)

    def blank(self) -> "Foreign":
        """Another network like this one, which drops nothing, with weights that say nothing yet."""
        return Foreign(self._given, never_written=self.forbidden_V.isinf().nonzero().flatten().tolist())

    def initialise(self, seed: int) -> "Foreign":
        """Draw the weights as the library does."""
        with torch.random.fork_rng(devices=[]):  # it knows only torch's global generator
            torch.manual_seed(seed)
            self._network[0].init_weights()
        return self

    def embed(self, tokens: Tensor) -> Tensor:
        """Refused: gaussian noise is for networks of our own."""
        raise ConfigError(
            f"process.kind: gaussian noise needs an embedding of its own, which {self.config.model_type} lacks; "
            "use masked, uniform or hybrid"
        )

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
        """Run the trunk; arguments as in `Transformer.encode`, `t_BQ` is not read.

        Returns:
            hidden_ND, or hidden_BQD without read_N: what the class's own head reads, or with `layers` what leaves so
            many of them.
        """
        given: dict[str, Any] = {
            "position_ids": where.position_BQ.clamp(min=0) + self._first_place,
            "attention_mask": self._mask(layout, where, kept, self._embedding_VD),
            "token_type_ids": torch.zeros_like(where.position_BQ),
            "use_cache": False,
            "output_hidden_states": layers is not None,
            "past_key_values": None if kept is None else _Slots(kept),
        }
        given["inputs_embeds" if inputs_BQ.is_floating_point() else "input_ids"] = inputs_BQ
        if self.config.model_type == "gpt2":  # reads them from the embedding of words
            del given["token_type_ids"]
        trunk = getattr(self, self.trunk_name)
        out = trunk(**{k: v for k, v in given.items() if k in self._accepts or k == "output_hidden_states"})
        hidden_BQD = out[0] if layers is None else out.hidden_states[layers]
        return hidden_BQD if read_N is None else hidden_BQD.flatten(0, 1).index_select(0, read_N)

    def _mask(self, layout: Layout, where: Where, kept: Kept | None, like: Tensor) -> Tensor | dict[str, Tensor]:
        """What is added to the scores, (B, 1, Q, K); by kind of layer where some see only what is near.

        Always a mask, since the library takes none for its own.
        """
        key = where if kept is None else kept.where
        visible_BQK = visible(layout, where, key)
        distance_BQK = (where.position_BQ[:, :, None] - key.position_BQ[:, None, :]).abs()
        if visible_BQK is None:
            visible_BQK = torch.ones_like(distance_BQK, dtype=torch.bool)
        autocast = torch.is_autocast_enabled(like.device.type)
        dtype = torch.get_autocast_dtype(like.device.type) if autocast else like.dtype

        def added(seen_BQK: Tensor) -> Tensor:
            mask_BQK = torch.zeros(seen_BQK.shape, dtype=dtype, device=seen_BQK.device)
            return mask_BQK.masked_fill_(~seen_BQK, float("-inf"))[:, None]

        kinds = layer_kinds(self.config)
        if kinds == {"full_attention"}:
            return added(visible_BQK)
        # Bidirectional classes count the window on each side, without the place itself.
        reach = self.config.sliding_window - (1 if self.causal else 0)
        near = added(visible_BQK & (distance_BQK <= reach))
        return near if len(kinds) == 1 else {"full_attention": added(visible_BQK), "sliding_attention": near}

    def readout(self, hidden_ND: Tensor, head: str = "token") -> Tensor:
        """logits_NV of hidden states, -inf where a token is never written; the leading axes may be any."""
        assert head == "token", "a network of the library has one head"
        whole = copy.copy(self._network[0])
        whole._modules = {**self._modules, self.trunk_name: _Through()}
        logits_1NV = whole(inputs_embeds=hidden_ND.reshape(1, -1, hidden_ND.shape[-1])).logits
        logits = logits_1NV.view(*hidden_ND.shape[:-1], -1)
        return logits + self.forbidden_V.to(logits.dtype)

    def empty_cache(self, rows: int, slots: int) -> Cache:
        """Buffers for the keys and values of `rows` rows of at most `slots` positions."""
        config = self.config
        if "past_key_values" not in self._accepts:
            raise ConfigError(f"cache: a network of the kind {config.model_type} keeps no keys and values; use none")
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Cache.empty(config.num_hidden_layers, heads, width, rows, slots, like=self._embedding_VD)

    @property
    def _embedding_VD(self) -> Tensor:
        table: Any = self._network[0].get_input_embeddings()
        return table.weight

    @property
    def context(self) -> int:
        """The longest row that it has places for."""
        return self.config.max_position_embeddings - self._first_place

    def canonical(self, name: str) -> str:
        """The name under which a weight is kept, of the names that a tied one has."""
        return self._aliases.get(name, name)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the matrices with a row for each token."""
        last: Any = self._network[0].get_output_embeddings()
        both = self._embedding_VD, last.weight
        return tuple(name for name, parameter in self.named_parameters() if any(parameter is one for one in both))

    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self.parameters())


class _Through(nn.Module):
    """Stands for the trunk while only the head is wanted: what comes in goes out."""

    @property
    def decoder(self) -> "_Through":  # where OPT looks for its trunk
        return self

    def forward(self, *args: Any, inputs_embeds: Tensor, **others: Any) -> Any:
        """The hidden states that were given, as the trunk would return them."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


class _Slots:
    """Our cache, as the library's attention layers use one."""

    is_compileable = False

    def __init__(self, kept: Kept):
        self.kept = kept

    def update(self, k_BHQE: Tensor, v_BHQE: Tensor, layer: int, *others: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Put the new keys and values in, and give all that can be read."""
        k, v = self.kept.exchange(layer, k_BHQE.transpose(1, 2), v_BHQE.transpose(1, 2))
        return k.transpose(1, 2), v.transpose(1, 2)

    def get_seq_length(self, layer: int = 0) -> int:
        """Nothing reads it: masks and places are given."""
        return 0


def _aliases(network: nn.Module) -> dict[str, str]:
    """Of each tied parameter, its other names and the one that is kept."""
    first: dict[int, str] = {}
    aliases = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            aliases[name] = kept
    return aliases


def _drop_aliases(network: Foreign, state: dict[str, Tensor], prefix: str, local_metadata: Any) -> None:
    for name in network._aliases:
        state.pop(prefix + name, None)


def _add_aliases(network: Foreign, state: dict[str, Tensor], prefix: str, *others: Any) -> None:
    for name, kept in network._aliases.items():
        if prefix + kept in state:
            state[prefix + name] = state[prefix + kept]


def _tie(network: Foreign, incompatible: Any) -> None:
    """Loading may have put one tensor under two names; make it one parameter again."""
    for name, kept in network._aliases.items():
        module, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(module), attribute, network.get_parameter(kept))
