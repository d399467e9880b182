"""A policy that is tuned, and the frozen model that it starts from, its reference."""

import dataclasses
from dataclasses import dataclass

from sfumato.config import ConfigError, ModelConfig, ProcessConfig, Recipe
from sfumato.data.batches import Batch, separate_rows
from sfumato.data.cache import Encoded
from sfumato.model.bundle import BundleConfig, Network, find_bundle, read_description
from sfumato.model.layout import layout_named
from sfumato.process import build_process
from sfumato.text.interface import AnyTokenizer
from sfumato.train.denoising import network
from sfumato.train.run import device_of
from sfumato.tune.estimates import View


@dataclass(frozen=True)
class Policy:
    """Two networks that begin as the same, and how both look at text."""

    config: BundleConfig
    """That of `init`: tuning by preferences or rewards changes nothing but weights."""
    tokenizer: AnyTokenizer
    view: View
    """In the blocks that the model writes in."""
    denoiser: Network
    reference: Network
    """`init`, frozen."""

    def batch(self, examples: list[Encoded]) -> Batch:
        """The examples as rows; on a GPU blocks need one length, since each is compiled for."""
        whole = self.view.device.type == "cuda" and self.view.layout.two_streams
        return separate_rows(examples, self.tokenizer, self.config.model.context, whole=whole)


def policy_of(recipe: Recipe, tokenizer: AnyTokenizer) -> Policy:
    """The model that the recipe names as `init`, twice. Sizes and noise are its own, the recipe need not repeat them.

    Raises:
        ConfigError: the recipe asks for another network, other noise, or dropout.
        ValueError: a process whose noise two networks cannot share.
    """
    config = read_description(find_bundle(recipe.init))[0]
    sizes = dataclasses.replace(recipe.model, vocab_size=config.model.vocab_size)
    for name, wanted, plain, found in (
        ("model", sizes, ModelConfig(vocab_size=config.model.vocab_size), config.model),
        ("process", recipe.process, ProcessConfig(), config.process),
    ):
        if wanted not in (plain, found):
            raise ConfigError(f"{name}: {recipe.method} changes nothing but weights; leave the section [{name}] out")
    for name, dropout in (("train.dropout", recipe.train.dropout), ("lora.dropout", recipe.lora.dropout)):
        if dropout:
            raise ConfigError(
                f"{name}: got {dropout}, but {recipe.method} compares the network with its reference; leave it at 0"
            )
    if recipe.train.patience:
        raise ConfigError(f"train.patience: {recipe.method} has no held-out loss to stop early by; leave it at 0")
    process = build_process(
        config.process,
        vocab_size=config.model.vocab_size,
        mask_id=config.tokens.mask,
        never_written=config.tokens.never_written,
        shift=config.shift,
    )
    layout = layout_named(config.layout, config.sampler.get("block") or config.model.block)
    view = View(process, layout, *device_of(recipe))
    reference = network(recipe, config).eval().requires_grad_(False)
    return Policy(config, tokenizer, view, network(recipe, config), reference)
