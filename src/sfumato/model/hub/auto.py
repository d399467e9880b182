"""Our models as classes of the transformers library: AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM.

Shape letters: B rows, L length, V vocabulary, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, MaskedLMOutput

from sfumato.canvas import Where
from sfumato.model.bundle import BundleConfig
from sfumato.model.hub import own
from sfumato.model.layout import layout_named
from sfumato.model.transformer import Transformer


class SfumatoConfig(PretrainedConfig):
    """config.json of our models in the layout of transformers."""

    model_type = own.MODEL_TYPE

    def __init__(self, sfumato: dict[str, Any] | None = None, **others: Any):
        """sfumato: what a bundle's config.json holds; others: keys of transformers' own."""
        self.sfumato = sfumato
        super().__init__(**others)

    def bundle(self) -> BundleConfig:
        """Our configuration; BundleError where it is missing or broken."""
        return own.read({own.KEY: self.sfumato}, "config.json")


class SfumatoPreTrained(PreTrainedModel):
    """What the classes share: the network, and how their arguments become its."""

    config_class = SfumatoConfig
    base_model_prefix = ""

    def __init__(self, config: SfumatoConfig):
        """Build with weights that say nothing; `from_pretrained` reads them."""
        super().__init__(config)
        self.bundle = config.bundle()
        self.network = Transformer(self.bundle.model, never_written=self.bundle.tokens.never_written)
        self.layout = layout_named(self.bundle.layout, self.bundle.sampler.get("block") or self.bundle.model.block)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if module is self.network:  # newer versions empty the buffers that no file holds
            self.network.initialise(0).forbid(self.bundle.tokens.never_written)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table of the tokens."""
        return self.network.embedding

    def _hidden(self, tokens_BL: Tensor, mask_BL: Tensor | None, position_BL: Tensor | None) -> Tensor:
        """hidden_BLD; blocks are counted from the first position, and all of a block before the last one is final."""
        if position_BL is None:
            ones_BL = torch.ones_like(tokens_BL) if mask_BL is None else mask_BL.long()
            position_BL = (ones_BL.cumsum(dim=1) - 1).clamp(min=0)
        document_BL = None if mask_BL is None else mask_BL.long() - 1
        where = Where(position_BL, document_BL)
        if self.layout.name == "block":
            size = self.bundle.sampler.get("block") or self.bundle.model.block
            where = Where(position_BL, document_BL, position_BL // size, torch.ones_like(tokens_BL, dtype=torch.bool))
        return self.network.encode(tokens_BL, where=where, layout=self.layout)


class SfumatoModel(SfumatoPreTrained):
    """The network without its readout."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """Hidden states (B, L, D) of tokens (B, L); `attention_mask` is 0 at padding."""
        return BaseModelOutput(last_hidden_state=self._hidden(input_ids, attention_mask, position_ids))


class SfumatoForMaskedLM(SfumatoPreTrained):
    """The network of a diffusion model: row i of the logits is about position i."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, V); with `labels`, -100 where nothing is asked, their mean cross-entropy in nats."""
        logits_BLV = self.network.readout(self._hidden(input_ids, attention_mask, position_ids))
        if self.bundle.shift:  # the network says at i - 1 what is at i; nobody says what the first is
            logits_BLV = torch.cat((logits_BLV[:, :1], logits_BLV[:, :-1]), dim=1)
        loss = None if labels is None else F.cross_entropy(logits_BLV.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits_BLV)


class SfumatoForCausalLM(SfumatoPreTrained):
    """The network of an autoregressive model: row i of the logits is about position i + 1."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits (B, L, V); with `labels`, the tokens themselves, the mean cross-entropy in nats."""
        logits_BLV = self.network.readout(self._hidden(input_ids, attention_mask, position_ids))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits_BLV)


def register() -> None:
    """Make the Auto classes know our models."""
    AutoConfig.register(own.MODEL_TYPE, SfumatoConfig, exist_ok=True)
    AutoModel.register(SfumatoConfig, SfumatoModel, exist_ok=True)
    AutoModelForMaskedLM.register(SfumatoConfig, SfumatoForMaskedLM, exist_ok=True)
    AutoModelForCausalLM.register(SfumatoConfig, SfumatoForCausalLM, exist_ok=True)
    AutoTokenizer.register(SfumatoConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
