"""The plan of a training run: what it takes, on which devices, for how long, and what holds it up."""

from dataclasses import dataclass, replace

from sfumato.compress.fits import FLOAT, ROOM, Sizes
from sfumato.config import ConfigError, ModelConfig, Recipe, TrainConfig
from sfumato.model.bundle import without_weights
from sfumato.model.transformer import Transformer
from sfumato.plan import memory, traffic
from sfumato.plan.cluster import Cluster, Share
from sfumato.process import Process
from sfumato.train.flops import classical, flops_per_token, latent_products, scored_share

TOKENS_PER_PARAMETER = {"autoregressive": 20.0}
"""Of the least loss for the compute: Hoffmann et al. 2022 (Chinchilla, 2203.15556, table 3)."""
DIFFUSION = 80.0
"""A diffusion model wants 2 to 5 times the tokens at the same compute (Ni et al. 2025, 2510.03280), hence a network as
many times smaller: 4 to 25 times 20 tokens a parameter. This is the low end; we have not verified it."""


@dataclass(frozen=True)
class RunPlan:
    """A training run on paper. Bytes, seconds and FLOPs."""

    parameters: int
    tokens: float
    flops_per_token: float
    """Model FLOPs, forward and backward."""
    flops: float
    classical: float
    """6 N D."""
    tokens_per_step: int
    steps: int
    share: Share
    memory: memory.Parts
    """Of one device."""
    needed: float
    """Their sum."""
    fits: bool
    checkpoint: float
    checkpoint_seconds: float
    sent: traffic.Parts
    """Of one device in a step."""
    compute_seconds: float
    """Of a step at the assumed utilisation."""
    sent_seconds: float
    hidden: float
    """Share of the time spent computing where all that is sent hides behind it: the upper bound."""
    bare: float
    """The same where none of it does."""
    seconds: float
    """Of the whole run, all hidden."""

    @property
    def device_hours(self) -> float:
        """Of all devices together."""
        return self.seconds * self.share.processes / 3600


@dataclass(frozen=True)
class Assumed:
    """What a plan takes for granted."""

    mfu: float = 0.4
    """Share of the peak rate that model FLOPs reach where nobody waits for others."""
    storage: float = 2e9
    """Bytes/s that a checkpoint is written with, by all processes together."""
    dtype: str = "bfloat16"
    """Of the products."""
    backend: str = "nccl"


def plan_run(recipe: Recipe, model: ModelConfig, process: Process, cluster: Cluster, assumed: Assumed) -> RunPlan:
    """Plan the training of a recipe.

    Args:
        recipe: how it is trained; `train.tokens` or `train.steps` of it, else as many as suit its size.
        model: its network, the vocabulary known.
        process: what is scored.
        cluster: on what.
        assumed: what is taken for granted.

    Raises:
        ConfigError: the rows of a step cannot be divided among the devices.
    """
    train, sizes, share = recipe.train, Sizes.of(model), Share.of(recipe.train, cluster.count)
    per_step = train.batch * train.accumulate * model.context
    tokens = train.steps * per_step or train.tokens or suggested(sizes.all, recipe.process.kind)
    layout = "causal" if process.name == "autoregressive" else "block" if model.block else "full"
    each = flops_per_token(model, layout, scored_share(process), latent_loss=latent_products(recipe))
    parts = memory.per_device(recipe, model, share, assumed.dtype)
    needed = sum(parts.values())
    checkpoint = memory.checkpoint_bytes(recipe, model)
    sent = traffic.sent(weights(model, train, assumed.dtype), share, assumed.backend)
    compute = each * per_step / cluster.count / (cluster.device.flops * assumed.mfu)
    sending = traffic.seconds(sent, share, cluster)
    steps = -(-int(tokens) // per_step)
    return RunPlan(
        parameters=sizes.all,
        tokens=tokens,
        flops_per_token=each,
        flops=each * tokens,
        classical=classical(sizes.all, tokens),
        tokens_per_step=per_step,
        steps=steps,
        share=share,
        memory=parts,
        needed=needed,
        fits=needed <= ROOM * cluster.device.memory,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint / assumed.storage,
        sent=sent,
        compute_seconds=compute,
        sent_seconds=sending,
        hidden=compute / max(compute, sending),
        bare=compute / (compute + sending),
        seconds=steps * max(compute, sending),
    )


def weights(model: ModelConfig, train: TrainConfig, dtype: str) -> traffic.Weights:
    """What of a network is sent."""
    sizes = Sizes.of(model)
    with without_weights():
        layers = sum(parameter.numel() for parameter in Transformer(model).blocks.parameters())
    muon = sizes.matrices if train.optimizer == "muon" else 0
    return traffic.Weights(layers, sizes.all - layers, muon, FLOAT[dtype])


def suggested(parameters: int, kind: str) -> float:
    """Tokens to train so many parameters on, where nobody says how many."""
    return TOKENS_PER_PARAMETER.get(kind, DIFFUSION) * parameters


def widest(recipe: Recipe, model: ModelConfig, cluster: Cluster, share: Share, dtype: str) -> int:
    """The most rows of a forward that there is room for, doubling what it has: the same step, sent less often.

    Only where that is sent in every forward, which copies of the weights do not.
    """
    while share.shard > 1 and share.accumulate % 2 == 0:
        wider = replace(share, batch=2 * share.batch, accumulate=share.accumulate // 2)
        if not _room(recipe, model, cluster, wider, dtype):
            break
        share = wider
    return share.batch


def _room(recipe: Recipe, model: ModelConfig, cluster: Cluster, share: Share, dtype: str) -> bool:
    return sum(memory.per_device(recipe, model, share, dtype).values()) <= ROOM * cluster.device.memory


def smallest(recipe: Recipe, model: ModelConfig, cluster: Cluster, dtype: str) -> int:
    """The smallest number of devices that has room for a run, among 1, 2, 4, ...

    Raises:
        ConfigError: none of those that the rows of a step can be shared by.
    """
    count = max(1, recipe.train.shard)
    while True:
        try:
            if _room(recipe, model, cluster, Share.of(recipe.train, count), dtype):
                return count
        except ConfigError:
            break
        count *= 2
    raise ConfigError(
        f"no number of {cluster.device.name} that can share {recipe.train.batch} x {recipe.train.accumulate} rows has "
        "room for this; try --train.checkpointing, --train.shard 0, a smaller --train.batch with more "
        "--train.accumulate, or another --gpu"
    )
