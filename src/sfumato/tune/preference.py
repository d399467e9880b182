"""Direct preference optimisation: of two answers the better one becomes more probable than it was, the other less.

The loss is -log sigmoid(beta [(B(chosen) - B_ref(chosen)) - (B(rejected) - B_ref(rejected))]), where B is the
log-likelihood left to right, and else an estimate of the ELBO. The logarithm makes the loss of an estimate biased, the
more the estimate varies; so the budget goes into noise levels, one mask each, and policy and reference share the noise.
Here both answers of a pair share it as well: their common beginnings are masked alike.

Sources: Rafailov et al. 2023 (DPO, 2305.18290, eq. 7); Zhu et al. 2025 (VRPO, 2505.19223, eq. 6 and section 3.2);
Mitchell 2023 (conservative DPO) for label smoothing.

Shape letters: P pairs.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sfumato import rng
from sfumato.config import Recipe
from sfumato.config.tuning import PreferenceConfig
from sfumato.data.cache import Encoded, Plain, Progress, digest
from sfumato.data.preferences import Preference, preferences
from sfumato.data.sources import DataError, Pair, Report
from sfumato.model.bundle import Network
from sfumato.text.interface import AnyTokenizer
from sfumato.train.denoising import Prepared, new_state, turns
from sfumato.train.state import State, averaged_network
from sfumato.train.update import Update
from sfumato.tune.estimates import log_likelihoods, noisings
from sfumato.tune.order import Order
from sfumato.tune.policy import Policy, policy_of

_NOISE = 52  # draw purpose
EVALUATED = 128  # held-out pairs, at most


class Example(NamedTuple):
    """A preference as tokens."""

    chosen: Encoded
    rejected: Encoded
    weight: float


def prepare(recipe: Recipe, tokenizer: AnyTokenizer, steps: int, reading: Progress | None) -> Prepared:
    """`data.sources` hold preferences; see `sfumato.data.preferences`. A step takes `train.batch` pairs at a time.

    Raises:
        ValueError: no preferences, or a recipe or a model that cannot be tuned by them.
    """
    policy = policy_of(recipe, tokenizer)
    train, held_out, key = examples(recipe, policy, reading)
    state = new_state(recipe, policy.denoiser, Order(len(train), recipe.seed, key))
    step = Step(recipe, policy, train, held_out, state, steps)
    return Prepared(policy.config, tokenizer, [], state, step)


def examples(recipe: Recipe, policy: Policy, reading: Progress | None) -> tuple[list[Example], list[Example], str]:
    """What to train on, what is held out, and a digest of all. A prompt's hash decides: its pairs are never parted.

    Raises:
        DataError: nothing to train on.
    """
    found: list[tuple[int, Example]] = []
    tokens = 0
    for source in recipe.data.sources:
        for pair in preferences(source, Report(recipe.data.on_error)) if source.weight else ():
            example = Example(*encoded(pair, policy), pair.weight)
            tokens += len(example.chosen.tokens) + len(example.rejected.tokens)
            found.append((digest([repr(pair.prompt)]), example))
            if reading and len(found) % 100 == 0:
                reading(source.path, len(found), tokens)
    hashes = sorted({hashed for hashed, _ in found})
    if len(hashes) < 2:
        raise DataError("no preferences: expected at least two prompts with a chosen and a rejected answer each")
    limit = min(max(int(recipe.data.held_out * 2.0**64), hashes[0] + 1), hashes[-1]) if recipe.data.held_out else 0
    held_out = sorted((pair for pair in found if pair[0] < limit), key=lambda pair: pair[0])
    key = f"{digest(repr(pair) for pair in found):016x}"
    return [example for hashed, example in found if hashed >= limit], [example for _, example in held_out], key


def encoded(pair: Preference, policy: Policy) -> tuple[Encoded, Encoded]:
    """Both answers behind the prompt, as the model meets it: in its chat template, or as plain text.

    Raises:
        DataError: a conversation, and the model knows none.
    """
    chosen, rejected = (_encoded(pair.prompt, answer, policy) for answer in (pair.chosen, pair.rejected))
    return chosen, rejected


def _encoded(prompt: Any, answer: str, policy: Policy) -> Encoded:
    if policy.config.chat is not None:
        document = Pair(prompt, answer) if isinstance(prompt, str) else (*prompt, ("assistant", answer))
        return list(turns(policy.config)([document], policy.tokenizer))[-1]
    if not isinstance(prompt, str):
        raise DataError("the model knows no conversations; give prompts, or tune a model on conversations first")
    (found,) = Plain()([Pair(prompt, answer)], policy.tokenizer)
    room = policy.config.model.context - len(policy.tokenizer.begin)
    response = found.tokens[found.prompt :][:room]
    kept = min(found.prompt, room - len(response))  # the end of a prompt that is too long
    return found._replace(tokens=[*found.tokens[found.prompt - kept : found.prompt], *response], prompt=kept)


@dataclass(frozen=True)
class Margins:
    """What a policy and its reference think of some pairs, all (P,)."""

    chosen_P: Tensor
    """Log-likelihoods under the policy, nats."""
    rejected_P: Tensor
    chosen_change_P: Tensor
    """What they are above those of the reference."""
    rejected_change_P: Tensor

    def loss(self, config: PreferenceConfig) -> Tensor:
        """Nats (P,)."""
        margin_P = self.margin(config.beta)
        return -(1 - config.smoothing) * logsigmoid(margin_P) - config.smoothing * logsigmoid(-margin_P)

    def margin(self, beta: float) -> Tensor:
        """How much better the chosen answer is, in rewards of DPO, (P,)."""
        return beta * (self.chosen_change_P - self.rejected_change_P)

    def figures(self, beta: float) -> Tensor:
        """Summed over the pairs: margin, whether it is positive, log-likelihoods and their changes, (6,)."""
        margin_P = self.margin(beta)
        columns = (margin_P, margin_P > 0, *vars(self).values())
        return torch.stack([column.detach().double().sum() for column in columns])


FIGURES = ("margin", "accuracy", "chosen", "rejected", "chosen_change", "rejected_change")


def margins(policy: Policy, denoiser: Network, pairs: list[Example], number_P: Tensor, **noise: int) -> Margins:
    """Estimates for pairs.

    Args:
        policy: has the reference.
        denoiser: the policy's network, or an average of it.
        pairs: of answers.
        number_P: int64, the numbers of their noise.
        noise: `samples` and `seed`, as `noisings` takes them.
    """
    batch = policy.batch([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    drawn = noisings(policy.view, batch, torch.cat((number_P, number_P)), **noise)
    chosen_P, rejected_P = log_likelihoods(policy.view, denoiser, drawn).chunk(2)
    with torch.no_grad():
        of_reference = log_likelihoods(policy.view, policy.reference, drawn).chunk(2)
    return Margins(chosen_P, rejected_P, chosen_P - of_reference[0], rejected_P - of_reference[1])


class Step:
    """One optimiser step on some pairs."""

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        pairs: list[Example],
        held_out: list[Example],
        state: State,
        steps: int,
    ):
        """Everything that stays the same from step to step."""
        self.recipe, self.policy, self.pairs, self.held_out = recipe, policy, pairs, held_out[:EVALUATED]
        self.state, self.steps, self.update = state, steps, Update(recipe, state, steps)

    def __call__(self) -> dict[str, Any]:
        """Make one step and return its record for metrics.jsonl."""
        start, config, train = time.perf_counter(), self.recipe.preference, self.recipe.train
        order = self.state.stream
        assert isinstance(order, Order)
        pairs = [self.pairs[i] for i in order.take(train.batch * train.accumulate)]
        seed = int(rng.mix(self.recipe.seed, self.state.step, _NOISE))
        scale = 1 / sum(pair.weight for pair in pairs)
        total = torch.zeros((), device=self.policy.view.device)
        figures = torch.zeros(len(FIGURES), dtype=torch.float64, device=self.policy.view.device)
        for begin in range(0, len(pairs), train.batch):
            part = pairs[begin : begin + train.batch]
            number_P = torch.arange(begin, begin + len(part))
            found = margins(self.policy, self.policy.denoiser, part, number_P, samples=config.samples, seed=seed)
            loss_P = found.loss(config)
            if config.nll:
                length_P = torch.tensor([len(pair.chosen.tokens) - pair.chosen.prompt for pair in part])
                loss_P = loss_P - config.nll * found.chosen_P / length_P.to(loss_P)
            loss = (loss_P * loss_P.new_tensor([pair.weight for pair in part])).sum() * scale
            loss.backward()
            total += loss.detach()
            figures += found.figures(config.beta)
        tokens = sum(len(pair.chosen.tokens) + len(pair.rejected.tokens) for pair in pairs)
        record = self.update(total, tokens, start)
        record |= dict(zip(FIGURES, (figures / len(pairs)).tolist(), strict=True))
        every = train.evaluate_every
        if self.held_out and (self.state.step == self.steps or (every and self.state.step % every == 0)):
            record |= {f"held_out_{name}": value for name, value in self.evaluate().items()}
        return record

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The figures of the held-out pairs, for the averaged weights and with the same noise each time."""
        config, batch = self.recipe.preference, self.recipe.train.batch
        denoiser = averaged_network(self.state)
        figures = torch.zeros(len(FIGURES), dtype=torch.float64, device=self.policy.view.device)
        for begin in range(0, len(self.held_out), batch):
            part = self.held_out[begin : begin + batch]
            number_P = torch.arange(begin, begin + len(part))
            found = margins(self.policy, denoiser, part, number_P, samples=config.samples, seed=self.recipe.seed)
            figures += found.figures(config.beta)
        return dict(zip(FIGURES, (figures / len(self.held_out)).tolist(), strict=True))
