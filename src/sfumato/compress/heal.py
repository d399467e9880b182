"""Healing: what is left of a pruned model learns back what the original says.

The loss is the divergence of what it predicts from what the original predicts of the same noised text, in nats at the
scored positions: a far richer target than the text alone.

Sources: Hinton et al. 2015 (1503.02531); Muralidharan et al. 2024 (Minitron, 2407.14679, section 3: healing by
distillation from the unpruned model).

Shape letters: B rows, N scored positions, V vocabulary.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sfumato.config import ConfigError, DataConfig, Recipe, TrainConfig
from sfumato.config.toml import located
from sfumato.data.batches import Batch
from sfumato.data.cache import Progress
from sfumato.model.bundle import Bundle, BundleConfig, Network
from sfumato.process import Growing
from sfumato.text.chat import ChatTemplate
from sfumato.text.tokenizer import AnyTokenizer
from sfumato.train.denoising import Prepared, denoising
from sfumato.train.loop import Watcher, train
from sfumato.train.run import device_of
from sfumato.train.state import State
from sfumato.train.step import Step


def recipe_for(
    init: Path, bundle: BundleConfig, data: DataConfig, tokens: int, *, lr: float, seed: int, device: str = "auto"
) -> Recipe:
    """How a pruned bundle in `init` is healed on so many tokens of text, on the device of the original."""
    rows = 16
    steps = max(1, round(tokens / (rows * bundle.model.context)))
    settings = TrainConfig(
        steps=steps,
        batch=rows,
        lr=lr,
        matrix_lr=10 * lr,
        warmup=max(1, min(20, steps // 10)),
        decay=0.5,
        ema=0.98,
        checkpoint_every=max(10, min(100, steps // 10)),
        keep=1,
        device=device,
    )
    recipe = Recipe(
        name=bundle.made.get("recipe", "") or "healed",
        init=str(init),
        model=bundle.model,
        process=bundle.process,
        data=data,
        train=settings,
        seed=seed,
    )
    return located(recipe, [Path()])  # as it will be read again, to go on


def heal(
    recipe: Recipe, original: Bundle, out: Path, *, watcher: Watcher | None = None, reading: Progress | None = None
) -> tuple[Path | None, int]:
    """Heal `recipe.init`, or go on where that was stopped; results as those of `train`.

    Args:
        recipe: as `recipe_for` makes it.
        original: what it was pruned from.
        out: the run's folder.
        watcher: told of every step.
        reading: told how much of the data has been tokenised.

    Raises:
        ValueError: a process that this is not for, or whatever training refuses.
    """

    def prepare(recipe: Recipe, tokenizer: AnyTokenizer, steps: int, reading: Progress | None) -> Prepared:
        chat = None if original.config.chat is None else ChatTemplate.from_dict(original.config.chat)
        run = denoising(recipe, tokenizer, steps, reading, chat=chat)
        if isinstance(getattr(run.step, "process", None), Growing):
            raise ConfigError("heal: not for insertion, whose rows grow; prune without --heal-tokens, then use tune")
        teacher = original.denoiser.to(device_of(recipe)[0])
        # Sampler and template as the original has them.
        config = replace(run.config, sampler=original.config.sampler, chat=original.config.chat)
        return replace(run, config=config, step=Healing(recipe, run.config, run.state, steps, teacher))

    return train(recipe, out, prepare=prepare, watcher=watcher, reading=reading)


class Healing(Step):
    """One step of a student that learns to say what its teacher says."""

    def __init__(self, recipe: Recipe, config: BundleConfig, state: State, steps: int, teacher: Network):
        """As in `Step`; the teacher is on the device of training."""
        super().__init__(recipe, config, state, steps)
        self.teacher = teacher

    def _loss(self, batch: Batch, rows_B: Tensor) -> Tensor:
        """Summed divergence of one micro-batch."""
        noised, where = self._noised(batch, rows_B, self._times(rows_B))
        read_N = noised.read_N(where, self.process.shift)
        self._seed_dropout(rows_B)
        noised = self._conditioned(noised, where, read_N)
        with torch.no_grad():
            wanted_NV, _ = self._predicted(noised, where, read_N, self.teacher)
        said_NV, _ = self._predicted(noised, where, read_N)
        return (divergence(wanted_NV, said_NV) * (noised.index_N >= 0)).sum()


def divergence(wanted_NV: Tensor, said_NV: Tensor) -> Tensor:
    """KL(softmax(wanted) || softmax(said)) in nats, (N,); what neither can say counts nothing."""
    log_p_NV, log_q_NV = (logits_NV.float().log_softmax(dim=-1) for logits_NV in (wanted_NV, said_NV))
    never_NV = log_p_NV.isneginf()
    difference_NV = log_p_NV.masked_fill(never_NV, 0.0) - log_q_NV.masked_fill(never_NV, 0.0)
    return (log_p_NV.exp() * difference_NV).sum(dim=-1)
