"""Adaptation: an autoregressive or masked language model becomes a diffusion model, and keeps what it knows.

An autoregressive one comes to see what is later little by little (`model.annealed`), so that it is never far from what
it can do, and may go on predicting each token from the place before it. A masked one, trained at low noise alone, only
has to learn the other levels.

Source: Gong et al. 2024 (DiffuLLaMA, 2410.17891, sections 3.2 and 3.3).
"""

from dataclasses import replace
from typing import Any

from sfumato import rng
from sfumato.config import ConfigError, Recipe
from sfumato.data.cache import Progress
from sfumato.model.annealed import Annealed
from sfumato.model.bundle import BundleConfig, find_bundle, read_description
from sfumato.text.chat import ChatTemplate
from sfumato.text.interface import AnyTokenizer
from sfumato.train.denoising import Prepared, denoising
from sfumato.train.state import State
from sfumato.train.step import Step

_SEEN = 12  # draw purpose


def prepare(recipe: Recipe, tokenizer: AnyTokenizer, steps: int, reading: Progress | None) -> Prepared:
    """`process` and `model.block` say what the model becomes; a model that knows conversations learns from such.

    Raises:
        ValueError: a model that cannot be adapted, or to something it cannot become; and whatever training refuses.
    """
    init = read_description(find_bundle(recipe.init))[0]
    if init.process.kind not in ("autoregressive", "masked"):
        raise ConfigError(
            f"init {recipe.init}: expected an autoregressive or masked model to adapt, it has {init.process.kind} noise"
        )
    if recipe.process.kind not in ("masked", "uniform", "hybrid"):
        raise ConfigError(
            f"process.kind: got {recipe.process.kind!r}, expected what the model becomes: masked, uniform or hybrid"
        )
    keeps = recipe.adapt.shift == "keep" and init.shift == 1
    if keeps and recipe.process.kind != "masked":
        raise ConfigError(
            f"adapt.shift: 'keep' is for masked noise, got process.kind {recipe.process.kind!r}; use remove"
        )
    chat = None if init.chat is None else ChatTemplate.from_dict(init.chat)
    run = denoising(recipe, tokenizer, steps, reading, chat=chat, shift=int(keeps))
    causal = init.layout == "causal"
    if init.process.kind == "autoregressive" and recipe.adapt.mask == "mean":
        if recipe.lora.rank and not recipe.lora.merge:
            raise ConfigError(
                "adapt.mask: 'mean' changes the embedding, which an adapter cannot hold; set lora.merge = true, or "
                'adapt.mask = "keep"'
            )
        start_mask(run.state, run.config.tokens.mask)
    return replace(run, step=Annealing(recipe, run.config, run.state, steps)) if causal else run


def start_mask(state: State, mask: int) -> None:
    """Give the mask, which an autoregressive model has never seen, the mean of all embeddings: it says nothing yet."""
    weights = dict(state.denoiser.named_parameters())
    for name in state.denoiser.tables:
        mean_D = weights[name].detach().mean(dim=0)
        for table_VD in (weights[name].detach(), state.average.get(name)):
            if table_VD is not None:
                table_VD[mask] = mean_D


class Annealing(Step):
    """The denoising step of a network that was causal."""

    def __init__(self, recipe: Recipe, config: BundleConfig, state: State, steps: int):
        """As in `Step`; what comes later is all seen after the share `adapt.anneal` of the steps."""
        super().__init__(recipe, config, state, steps)
        self.until = recipe.adapt.anneal * steps
        self.fast = self.forward

    def __call__(self) -> dict[str, Any]:
        """One step; the record says how much of what comes later it could see."""
        step = self.state.step
        share = min(1.0, step / self.until) if self.until else 1.0
        self.seen, self.forward = self.layout, self.fast
        if share < 1:  # another mask in each step: nothing to compile for
            seed = int(rng.mix(self.recipe.seed, step, _SEEN))
            self.seen, self.forward = Annealed(self.layout, share, seed), self._forward
        return super().__call__() | {"later_seen": share}
