"""The ladder: every budget of FLOPs is spent several times, from few parameters and many tokens to the reverse.

The networks are the recipe's own, made wider and deeper in proportion: heads of the same size, the same ratio of MLP
to width and of width to depth. A group of rungs with one budget is what Hoffmann et al. 2022 (2203.15556,
section 3.2) call an isoFLOP profile.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sfumato.config import ConfigError, ModelConfig, ProcessConfig, Recipe
from sfumato.process import build_process
from sfumato.train.flops import flops_per_token, scored_share

KINDS = ("masked", "block", "ar")
BLOCK = 16  # tokens a block, where the recipe says nothing
SHORTEST = 30  # steps of a rung: fewer are all warm-up
CHECKED = 1  # networks for a budget that is not fitted


@dataclass(frozen=True)
class Rung:
    """One training: a network, and how long it learns."""

    kind: str
    budget: float
    """FLOPs that were asked for."""
    width: int
    layers: int
    heads: int
    mlp_width: int
    steps: int
    seed: int
    parameters: int
    """Without the embeddings: N of the law."""
    embeddings: int
    """Parameters of the table that reads tokens in and out."""
    tokens: int
    """Tokens read: D of the law."""
    flops: float
    """FLOPs of the training, as `train.flops` counts them."""
    fitted: bool = True
    """Whether the law may see it; else it checks the law's prediction."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.budget:.3g}-{self.width}x{self.layers}-{self.seed}".replace("+", "")

    def recipe(self, recipe: Recipe, tokenizer: str) -> Recipe:
        """What `train` is given: the study's recipe with this network, this length and the common tokenizer."""
        train = dataclasses.replace(
            recipe.train,
            steps=self.steps,
            tokens=0,
            warmup=min(recipe.train.warmup, self.steps // 10),
            evaluate_every=0,
            patience=0,
            sample_every=0,
        )
        return dataclasses.replace(
            recipe,
            name=self.name,
            seed=self.seed,
            model=dataclasses.replace(
                _model_of(recipe, self.kind),
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                mlp_width=self.mlp_width,
            ),
            process=_process_of(recipe, self.kind),
            tokenizer=dataclasses.replace(recipe.tokenizer, path=tokenizer),
            train=train,
        )


@dataclass(frozen=True)
class Shape:
    """A network of one kind, and what a token costs it."""

    model: ModelConfig
    parameters: int
    embeddings: int
    flops_per_token: float

    def tokens(self, flops: float) -> float:
        """Tokens that so many FLOPs pay for."""
        return flops / self.flops_per_token


def shapes(recipe: Recipe, kind: str, vocab_size: int) -> Iterator[Shape]:
    """Ever larger networks in the recipe's proportions, without end."""
    own = recipe.model
    process = build_process(_process_of(recipe, kind), vocab_size=vocab_size, mask_id=0, never_written=())
    layout = "causal" if kind == "ar" else "block" if kind == "block" else "full"
    heads = 1
    while True:
        width = heads * own.head_size
        model = dataclasses.replace(
            _model_of(recipe, kind),
            vocab_size=vocab_size,
            width=width,
            layers=max(2, round(own.layers * width / own.width)),
            heads=heads,
            mlp_width=max(8, round(own.mlp_width * width / own.width / 8) * 8),
        )
        cost = flops_per_token(model, layout, scored_share(process))
        yield Shape(model, _hidden(model), vocab_size * width, cost)
        heads += 1


def ladder(
    recipe: Recipe,
    vocab_size: int,
    *,
    kinds: Sequence[str],
    budgets: Sequence[float],
    check: Sequence[float] = (),
    ratios: tuple[float, float],
    sizes: int,
    seeds: Sequence[int],
) -> list[Rung]:
    """All rungs, the cheapest first.

    Args:
        recipe: proportions of the network, context, batch and all else that the rungs share.
        vocab_size: of the common tokenizer.
        kinds: of `KINDS`.
        budgets: FLOPs of each group that the law is fitted to.
        check: FLOPs of further groups, of one network each, that the law must predict.
        ratios: tokens a parameter of the largest and of the smallest network of a group.
        sizes: networks in a group, evenly spaced between the ratios on a logarithmic scale.
        seeds: each network is trained once with each.

    Raises:
        ConfigError: settings that the rungs cannot keep; one line.
    """
    _check(recipe, budgets, check, ratios)
    found: dict[str, Rung] = {}
    for kind in kinds:
        for budget, fitted in [*((c, True) for c in budgets), *((c, False) for c in check)]:
            wanted = _spaced(*ratios, sizes) if fitted else _spaced(*ratios, 2 + CHECKED)[1:-1]
            for ratio in wanted:
                shape = _nearest(shapes(recipe, kind, vocab_size), budget, ratio)
                for seed in seeds:
                    rung = _rung(recipe, kind, shape, budget, seed, fitted)
                    found.setdefault(rung.name, rung)
    return sorted(found.values(), key=lambda rung: (not rung.fitted, rung.flops, rung.name))


def _check(recipe: Recipe, budgets: Sequence[float], check: Sequence[float], ratios: tuple[float, float]) -> None:
    if not 0 < ratios[0] < ratios[1]:
        raise ConfigError(
            f"--ratios: expected two numbers, 0 < lowest < highest, got {ratios[0]:g} and {ratios[1]:g}; try 5,80"
        )
    if both := sorted(set(budgets) & set(check)):
        raise ConfigError(f"--check {both[0]:g}: this budget is fitted too; a check must be none of --budgets")
    model, kind = recipe.model, recipe.process.kind
    if model.latent or kind not in ("masked", "autoregressive"):
        raise ConfigError(f"process.kind: got {kind!r}, but a ladder compares masked, block and ar; use masked")
    if recipe.init:
        raise ConfigError(f"init: got {recipe.init!r}, but the rungs have other sizes; leave it empty")
    if model.kv_heads:
        raise ConfigError(f"model.kv_heads: got {model.kv_heads}, but the rungs have other numbers of heads; use 0")


def _spaced(low: float, high: float, count: int) -> list[float]:
    if count == 1:
        return [math.sqrt(low * high)]
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def _nearest(found: Iterable[Shape], budget: float, ratio: float) -> Shape:
    """The network whose tokens a parameter are nearest to the ratio, when it spends the budget; they fall with size."""
    last = None
    for shape in found:
        off = math.log(shape.tokens(budget) / shape.parameters / ratio)
        if off <= 0:
            return shape if last is None or -off <= last[0] else last[1]
        last = (off, shape)
    raise AssertionError("shapes never end")


def _rung(recipe: Recipe, kind: str, shape: Shape, budget: float, seed: int, fitted: bool) -> Rung:
    step = recipe.train.batch * recipe.train.accumulate * recipe.model.context
    steps = round(shape.tokens(budget) / step)
    if steps < SHORTEST:
        raise ConfigError(
            f"budget {budget:g}: {kind} of width {shape.model.width} learns for {steps} steps of {step} tokens only, "
            f"expected at least {SHORTEST}; take larger --budgets or --ratios, or a smaller train.batch"
        )
    model = shape.model
    return Rung(
        kind=kind,
        budget=budget,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        mlp_width=model.mlp_width,
        steps=steps,
        seed=seed,
        parameters=shape.parameters,
        embeddings=shape.embeddings,
        tokens=steps * step,
        flops=steps * step * shape.flops_per_token,
        fitted=fitted,
    )


def _model_of(recipe: Recipe, kind: str) -> ModelConfig:
    """The recipe's network with the blocks of this kind."""
    if kind == "block":
        return dataclasses.replace(recipe.model, block=recipe.model.block or min(BLOCK, recipe.model.context))
    return dataclasses.replace(recipe.model, block=0, smallest_block=0)


def _process_of(recipe: Recipe, kind: str) -> ProcessConfig:
    """The recipe's noise where it is of this kind, else the usual one."""
    if kind == "ar":
        return ProcessConfig(kind="autoregressive")
    return recipe.process if recipe.process.kind == "masked" else ProcessConfig()


def _hidden(model: ModelConfig) -> int:
    """Parameters without the embeddings, counted on the network itself."""
    from sfumato.model.bundle import without_weights
    from sfumato.model.transformer import Transformer

    with without_weights():
        network = Transformer(model)
    tables = {"embedding.weight", "head.weight"}
    return sum(p.numel() for name, p in network.named_parameters() if name not in tables)
