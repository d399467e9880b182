"""Policy optimisation with verifiable rewards: what was better than the group's other answers becomes more probable.

A group of answers is written to each prompt; an answer's advantage is its reward less the group's mean, in units of the
group's standard deviation. Then `iterations` optimiser steps on them raise the mean of advantage times ratio, where a
token's ratio is its probability now over that when it was written, clipped; less a divergence from the reference. See
`token_scores` for what a token's probability is.

Sources: Shao et al. 2024 (GRPO, 2402.03300, section 4.1); Zhao et al. 2025 (diffu-GRPO, 2504.12216); Gong et al. 2025
(coupled-GRPO, 2506.20639); Schulman 2020 ("Approximating KL divergence") for the divergence.

Shape letters: B answers, G groups, L row length, I iterations.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato import rng
from sfumato.config import ConfigError, Recipe
from sfumato.config.tuning import ReinforceConfig
from sfumato.data.cache import Progress
from sfumato.evaluate.tasks.named import task_of
from sfumato.model.bundle import Network
from sfumato.sample.front import Front, Plan
from sfumato.text.interface import AnyTokenizer
from sfumato.train.denoising import Prepared, new_state
from sfumato.train.state import State, averaged_network
from sfumato.train.update import Update
from sfumato.tune.policy import Policy, policy_of
from sfumato.tune.prompts import Prompts, prompts_of, row_of
from sfumato.tune.rewards import Record, Reward, reward_of
from sfumato.tune.rollouts import Answers, answer_text, answers_of, written
from sfumato.tune.token_scores import Masks, masks, token_log_probs

_WRITE, _MASK = 56, 57  # draw purposes


def prepare(recipe: Recipe, tokenizer: AnyTokenizer, steps: int, reading: Progress | None) -> Prepared:
    """Problems come from `reinforce.task`, or prompts from `data.sources`.

    A step takes `train.batch * train.accumulate` answers, `reinforce.group` to a prompt; `train.batch` of them at a
    time go through the network.

    Raises:
        ValueError: nothing to ask or to reward, or a recipe or a model that cannot be tuned like this.
    """
    policy, config = policy_of(recipe, tokenizer), recipe.reinforce
    rows = recipe.train.batch * recipe.train.accumulate
    if rows % config.group:
        raise ConfigError(
            f"train.batch * train.accumulate: expected a multiple of reinforce.group, {config.group}, got {rows}"
        )
    task = task_of(config.task, "reinforce.task") if config.task else None
    reward = reward_of(config, task)
    state = new_state(recipe, policy.denoiser, Experience(prompts_of(recipe, task)))
    return Prepared(policy.config, tokenizer, [], state, Step(recipe, policy, reward, state, steps))


@dataclass(frozen=True)
class Batch:
    """Answers to learn from."""

    answers: Answers
    advantage_B: Tensor
    """float32."""
    old_IBL: Tensor
    """log p of their tokens when they were written, under the masks of each iteration; empty for one iteration."""
    figures: dict[str, float]
    """For metrics.jsonl."""


class Experience:
    """The prompts, and the answers that the next steps go on learning from."""

    def __init__(self, prompts: Prompts):
        """Nothing was asked yet."""
        self.prompts = prompts
        self.batch: Batch | None = None

    def state(self) -> dict[str, Any]:
        """Values that JSON can hold: its numbers are exact."""
        found: dict[str, Any] = {"prompts": self.prompts.state(), "answers": None, "figures": {}}
        if self.batch is not None:
            tensors = {**vars(self.batch.answers), "advantage_B": self.batch.advantage_B, "old_IBL": self.batch.old_IBL}
            found["answers"] = {name: tensor.tolist() for name, tensor in tensors.items()}
            found["figures"] = self.batch.figures
        return found

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self.prompts.restore(state["prompts"])
        self.batch = None
        if state["answers"]:
            tensors = {name: torch.tensor(value) for name, value in state["answers"].items()}
            advantage_B, old_IBL = tensors.pop("advantage_B"), tensors.pop("old_IBL")
            self.batch = Batch(Answers(**tensors), advantage_B, old_IBL, state["figures"])


def advantages(reward_B: Tensor, group: int, *, normalise: bool) -> Tensor:
    """How much better each answer is than the mean of its group, (B,); 0 where all are equally good."""
    reward_GB = reward_B.view(-1, group)
    above_GB = reward_GB - reward_GB.mean(dim=1, keepdim=True)
    if normalise:
        above_GB = above_GB / (reward_GB.std(dim=1, correction=0, keepdim=True) + 1e-6)
    return above_GB.flatten()


def policy_loss(
    new_BL: Tensor,
    old_BL: Tensor,
    reference_BL: Tensor | None,
    advantage_B: Tensor,
    scored_BL: Tensor,
    config: ReinforceConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each answer, a mean over its tokens; its share of clipped tokens; its divergence in nats a token.

    Args:
        new_BL: log p of the tokens, with gradients.
        old_BL: when they were written.
        reference_BL: of the reference; None where the divergence has no weight.
        advantage_B: of the answers.
        scored_BL: bool, which tokens count.
        config: clip and beta.
    """
    ratio_BL, advantage_B1 = (new_BL - old_BL).exp(), advantage_B[:, None]
    clipped_BL = ratio_BL.clamp(1 - config.clip, 1 + config.clip)
    gain_BL = torch.minimum(ratio_BL * advantage_B1, clipped_BL * advantage_B1)
    divergence_BL = torch.zeros_like(new_BL)
    if reference_BL is not None:
        apart_BL = reference_BL - new_BL
        divergence_BL = apart_BL.exp() - apart_BL - 1
    count_B = scored_BL.sum(dim=1).clamp(min=1)

    def mean(value_BL: Tensor) -> Tensor:
        return (value_BL * scored_BL).sum(dim=1) / count_B

    clipped_B = mean((clipped_BL * advantage_B1 < ratio_BL * advantage_B1).to(new_BL.dtype))
    return mean(config.beta * divergence_BL - gain_BL), clipped_B.detach(), mean(divergence_BL).detach()


class Step:
    """One optimiser step; every `iterations` of them begin with new answers."""

    def __init__(self, recipe: Recipe, policy: Policy, reward: Reward, state: State, steps: int):
        """Everything that stays the same from step to step."""
        self.recipe, self.policy, self.reward, self.state, self.steps = recipe, policy, reward, state, steps
        # The loss of new answers is 0 but for rounding, whatever there is to learn: nothing to judge a step by.
        self.update = Update(recipe, state, steps, spikes=False)
        assert isinstance(state.stream, Experience)
        self.experience = state.stream
        self.front = Front(policy.config, policy.tokenizer.to_json())
        in_sight = self.experience.prompts.in_place
        self.plan, self.sure = (
            self.front.plan({"temperature": temperature}, in_sight=in_sight)
            for temperature in (recipe.reinforce.temperature, 0.0)
        )
        self.view = policy.view
        if self.front.layout.name == "block":  # scored in the blocks that it was written in
            self.view = replace(policy.view, layout=self.front.layout_for(self.plan.block))

    def __call__(self) -> dict[str, Any]:
        """Make one step and return its record for metrics.jsonl."""
        start, config, train = time.perf_counter(), self.recipe.reinforce, self.recipe.train
        iteration = self.state.step % config.iterations
        if iteration == 0 or self.experience.batch is None:
            self.experience.batch = self._asked()
        batch, device = self.experience.batch, self.view.device
        rows = len(batch.advantage_B)
        totals = torch.zeros(3, device=device)
        for begin in range(0, rows, train.batch):
            part = slice(begin, min(begin + train.batch, rows))
            losses, clipped_B, divergence_B = self._losses(batch, part, iteration)
            loss = losses.sum() / rows
            loss.backward()
            totals += torch.stack((loss.detach(), clipped_B.sum() / rows, divergence_B.sum() / rows))
        record = self.update(totals[0], int(batch.answers.written_BL.sum()), start)
        record |= batch.figures | {"clipped": float(totals[1])}
        if config.beta:
            record["divergence"] = float(totals[2])
        if iteration + 1 == config.iterations:
            self.experience.batch = None
        every = train.evaluate_every
        if config.problems and (self.state.step == self.steps or (every and self.state.step % every == 0)):
            record |= self._evaluated()
        return record

    def _asked(self) -> Batch:
        """New answers, rewarded."""
        config, train = self.recipe.reinforce, self.recipe.train
        count = train.batch * train.accumulate
        asked = self.experience.prompts.take(count // config.group)
        records = [record for record in asked for _ in range(config.group)]
        answers, reward_B = self._written(self.policy.denoiser, records, self._seeds(count), self.plan)
        advantage_B = advantages(reward_B, config.group, normalise=config.normalise)
        signal = (advantage_B.view(-1, config.group) != 0).any(dim=1).double().mean()
        length = answers.scored_BL.sum(dim=1).double().mean()
        figures = {"reward": float(reward_B.mean()), "signal": float(signal), "length": float(length)}
        batch = Batch(answers, advantage_B.float(), torch.zeros(0), figures)
        if config.iterations == 1:
            return batch
        with torch.no_grad():
            old = [self._log_probs(batch, i) for i in range(config.iterations)]
        return Batch(answers, batch.advantage_B, torch.stack(old).cpu(), figures)

    def _log_probs(self, batch: Batch, iteration: int) -> Tensor:
        """Log p of the tokens of all answers, in parts of `train.batch`, (B, L)."""
        rows, size = len(batch.advantage_B), self.recipe.train.batch
        parts = [slice(begin, begin + size) for begin in range(0, rows, size)]
        return torch.cat(
            [token_log_probs(self.view, self.policy.denoiser, self._masks(batch, part, iteration)) for part in parts]
        )

    def _masks(self, batch: Batch, part: slice, iteration: int) -> Masks:
        """The masks of an iteration; a function of its step."""
        step = self.state.step - self.state.step % self.recipe.reinforce.iterations + iteration
        seeds_B = rng.mix(torch.arange(len(batch.advantage_B))[part], self.recipe.seed, step, _MASK)
        config = self.recipe.reinforce
        return masks(
            self.view,
            batch.answers.select(part),
            seeds_B,
            estimator=config.estimator,
            prompt_masking=config.prompt_masking,
        )

    def _losses(self, batch: Batch, part: slice, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `policy_loss`, for some of the answers."""
        config, view = self.recipe.reinforce, self.view
        drawn = self._masks(batch, part, iteration)
        new_BL = token_log_probs(view, self.policy.denoiser, drawn)
        old_BL = batch.old_IBL[iteration, part].to(new_BL) if config.iterations > 1 else new_BL.detach()
        reference_BL = None
        if config.beta:
            with torch.no_grad():
                reference_BL = token_log_probs(view, self.policy.reference, drawn)
        advantage_B, scored_BL = batch.advantage_B[part].to(new_BL), batch.answers.scored_BL[part].to(view.device)
        return policy_loss(new_BL, old_BL, reference_BL, advantage_B, scored_BL, config)

    def _seeds(self, count: int) -> list[int]:
        seeds_B = rng.mix(torch.arange(count), self.recipe.seed, self.state.step, _WRITE)
        return (seeds_B & (2**63 - 1)).tolist()

    def _written(
        self, denoiser: Network, records: list[Record], seeds: list[int], plan: Plan
    ) -> tuple[Answers, Tensor]:
        """Answers to the records, and their rewards, float64 (B,)."""
        front, tokenizer = self.front, self.policy.tokenizer
        rows = [row_of(record, front, self.recipe.reinforce.max_tokens) for record in records]
        tokens = written(denoiser, front, plan, rows, seeds, self.view.device)
        rewards = [
            self.reward(record, answer_text(tokenizer, row, found, whole="template" in record))
            for record, row, found in zip(records, rows, tokens, strict=True)
        ]
        return answers_of(rows, tokens, tokenizer), torch.tensor(rewards, dtype=torch.float64)

    def _evaluated(self) -> dict[str, float]:
        """The mean reward of the averaged weights on what is held out, the most probable tokens taken."""
        records = self.experience.prompts.held_out(self.recipe.reinforce.problems)
        if not records:
            return {}
        denoiser = averaged_network(self.state)
        _, reward_B = self._written(denoiser, records, list(range(len(records))), self.sure)
        return {"held_out_reward": float(reward_B.mean())}
