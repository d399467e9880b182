"""The recipe: everything that makes a model, as frozen dataclasses."""

from dataclasses import dataclass, field

from sfumato.config.check import ConfigError, option
from sfumato.config.scoring import ScoreConfig
from sfumato.config.tuning import (
    METHODS,
    AdaptConfig,
    ChatConfig,
    DistillConfig,
    LoraConfig,
    PreferenceConfig,
    ReinforceConfig,
)


@dataclass(frozen=True)
class ModelConfig:
    """The transformer."""

    vocab_size: int = option(0, "number of tokens; 0 takes it from the tokenizer", at_least=0)
    width: int = option(256, "size of the hidden vectors", at_least=1)
    layers: int = option(6, "number of transformer layers", at_least=1)
    heads: int = option(4, "attention heads in a layer", at_least=1)
    kv_heads: int = option(0, "key/value heads (grouped-query attention); 0 means as many as heads", at_least=0)
    head_width: int = option(0, "size of a head; 0 = width / heads", at_least=0)
    mlp_width: int = option(704, "inner size of the SwiGLU layer", at_least=1)
    context: int = option(256, "longest row, in tokens", at_least=2)
    rope_theta: float = option(10000.0, "base of the rotary position frequencies", at_least=1)
    block: int = option(0, "block diffusion: tokens a block, each written after the one before; 0 = none", at_least=0)
    smallest_block: int = option(0, "training draws block sizes from here to model.block; 0 = that alone", at_least=0)
    time_conditioning: bool = option(False, "tell the network the noise level")
    tied: bool = option(True, "share the input and output embeddings")
    qk_norm: bool = option(True, "normalise queries and keys, head by head")
    qkv_bias: bool = option(False, "add a bias to queries, keys and values")
    bias: bool = option(False, "add a bias to the other matrices of a layer")
    norm_eps: float = option(1e-6, "what normalisation adds to the mean square", at_least=0, below=1)
    scale_embeddings: bool = option(True, "multiply the embeddings by the root of their width")
    latent: int = option(0, "size of the embeddings that gaussian noise is put on; 0 = tokens are noised", at_least=0)
    self_conditioning: bool = option(False, "gaussian: the network also reads its previous prediction")
    gap_head: bool = option(False, "a second head that says where tokens are missing; set where the process needs it")

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        if self.head_width % 2:  # rotary positions turn pairs
            raise ConfigError(f"model.head_width must be even: got {self.head_width}; try {self.head_width + 1}")
        if not self.head_width and self.width % (2 * self.heads):
            raise ConfigError(
                f"model.width must be a multiple of 2 * model.heads: got {self.width} and {self.heads} heads; "
                f"try width {-(-self.width // (2 * self.heads)) * 2 * self.heads}"
            )
        if self.kv_heads and self.heads % self.kv_heads:
            good = ", ".join(str(n) for n in range(1, self.heads + 1) if self.heads % n == 0)
            raise ConfigError(
                f"model.kv_heads must divide model.heads: got {self.kv_heads} and {self.heads}; try one of {good}"
            )
        if self.latent and (self.tied or not self.time_conditioning):
            raise ConfigError(
                "model.latent, the size of noised embeddings, needs model.tied = false and model.time_conditioning = "
                f"true; got {str(self.tied).lower()} and {str(self.time_conditioning).lower()}"
            )
        if self.self_conditioning and not self.latent:
            raise ConfigError("model.self_conditioning is for gaussian noise; set model.latent, such as 32")
        if self.smallest_block > self.block or self.block > self.context:
            raise ConfigError(
                f"expected model.smallest_block <= model.block <= model.context, got {self.smallest_block}, "
                f"{self.block} and {self.context}"
            )

    @property
    def head_size(self) -> int:
        """Numbers in a head's query, key or value."""
        return self.head_width or self.width // self.heads


_OBJECTIVES = {
    "masked": ("elbo", "count", "cross_entropy", "cart", "score_entropy", "flow_matching", "mgdm"),
    "uniform": ("elbo", "cross_entropy", "score_entropy", "flow_matching"),
    "hybrid": ("elbo", "cross_entropy", "dynamic"),
    "gaussian": ("elbo", "cross_entropy"),
    "insertion": ("elbo", "cross_entropy"),
}
_SCHEDULES = {
    "masked": ("linear", "cosine", "log-linear"),
    "uniform": ("linear", "cosine"),  # log-linear differs from linear by a jump that only masked noise accounts for
    "hybrid": ("linear",),  # its paper's own
    "gaussian": ("cosine",),
    "insertion": ("linear", "cosine"),  # a jump of log-linear would reveal several tokens at once
}


@dataclass(frozen=True)
class ProcessConfig:
    """How clean text becomes noise, and what the network is scored on."""

    kind: str = option(
        "masked", "noise process", ("masked", "uniform", "hybrid", "gaussian", "insertion", "autoregressive")
    )
    schedule: str = option("linear", "how fast the noise grows with t", ("linear", "cosine", "log-linear"))
    objective: str = option(
        "cross_entropy", "what training minimises", tuple(dict.fromkeys(sum(_OBJECTIVES.values(), ())))
    )
    uniform_share: float = option(
        0.2, "hybrid: share of random words at t = 1/2; masks make up the other noise", at_least=1e-3, at_most=0.999
    )
    noise_scale: float = option(1.0, "gaussian: sigma / alpha at t = 1/2; large embeddings need more", at_least=0.01)
    levels: tuple[float, ...] = option(
        (0.0, 1.0), "lowest and highest t of training; evaluation takes all", at_least=0, at_most=1
    )

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing."""
        for name, chosen, good in (
            ("objective", self.objective, _OBJECTIVES.get(self.kind)),
            ("schedule", self.schedule, _SCHEDULES.get(self.kind)),
        ):
            if good and chosen not in good:  # where nothing is listed, nothing reads it
                raise ConfigError(
                    f"process.{name} {chosen!r} does not make sense for {self.kind} noise; use {' or '.join(good)}"
                )
        if len(self.levels) != 2 or not 0 <= self.levels[0] < self.levels[1] <= 1:
            raise ConfigError(
                f"process.levels: expected two numbers, 0 <= lowest < highest <= 1, got {list(self.levels)}; "
                "try 0.3,0.8"
            )


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer: an existing one, or how to train one."""

    path: str = option("", "tokenizer.json, or a folder that holds it; empty trains one from the data")
    vocab_size: int = option(4096, "tokens of a newly trained tokenizer, special tokens included", at_least=263)


@dataclass(frozen=True)
class Source:
    """One source of documents."""

    path: str = field(metadata={"help": "file, folder, URL (s3://...), or hf:NAME for a Hugging Face dataset"})
    weight: float = option(1.0, "share of the training tokens, relative to the other sources", at_least=0)
    field: str = option("text", "the key of a record that holds the text")
    prompt: str = option("", "makes prompts out of records, such as 'Translate to French: {en}'; needs response")
    response: str = option("", "makes what is learned out of records, such as {fr} or {fr[0]}; takes field's place")
    licence: str = option("", "licence and attribution of the data, for the model card")
    split: str = option("train", "the split of a Hugging Face dataset")

    def __post_init__(self) -> None:
        """Refuse a prompt that nothing answers."""
        if self.prompt and not self.response:
            raise ConfigError(f"source {self.path}: a prompt needs a response, such as response = '{{answer}}'")

    @classmethod
    def from_text(cls, text: str) -> "Source":
        """Read `PATH[@WEIGHT]`, as the command line gives a source."""
        path, at, weight = text.rpartition("@")
        try:
            return cls(path, float(weight)) if at and path else cls(text)
        except ValueError:  # the @ belongs to the path
            return cls(text)


@dataclass(frozen=True)
class DataConfig:
    """The text to learn from."""

    sources: tuple[Source, ...] = option((), "what to read, as PATH[@WEIGHT],PATH[@WEIGHT],...")
    held_out: float = option(0.02, "fraction of the documents kept for evaluation", at_least=0, below=1)
    on_error: str = option("stop", "what to do at a broken line", ("stop", "skip"))
    cache: str = option("", "folder of the tokenised cache; empty means $SFUMATO_CACHE or ~/.cache/sfumato")
    stream: bool = option(False, "read and tokenise the sources as training goes, with nothing kept on disk")
    shuffle: int = option(8192, "stream: documents that are shuffled among each other", at_least=1)
    lanes: int = option(64, "stream: independent readers, which the processes share evenly", at_least=1)


@dataclass(frozen=True)
class TrainConfig:
    """The training run."""

    steps: int = option(0, "optimiser steps; 0 means as many as train.tokens needs", at_least=0)
    tokens: int = option(0, "tokens to train on, where train.steps is 0", at_least=0)
    batch: int = option(32, "rows in a forward pass", at_least=1)
    accumulate: int = option(1, "forward passes in an optimiser step", at_least=1)
    optimizer: str = option("muon", "muon (with AdamW for what is no matrix) or adamw", ("muon", "adamw"))
    optimizer_state: str = option("float32", "what the optimisers remember; 8bit is a quarter", ("float32", "8bit"))
    lr: float = option(2e-3, "peak learning rate of AdamW", at_least=0)
    matrix_lr: float = option(2e-2, "peak learning rate of Muon", at_least=0)
    transfer_width: int = option(
        0, "width at which train.lr was found: other widths scale it so that it fits; 0 = as it is", at_least=0
    )
    weight_decay: float = option(0.0, "decoupled weight decay", at_least=0)
    warmup: int = option(100, "steps until the peak learning rate", at_least=0)
    decay: float = option(0.3, "fraction of the steps over which the rate falls to zero", at_least=0, at_most=1)
    clip: float = option(1.0, "largest norm of the gradient; 0 does not clip", at_least=0)
    dropout: float = option(0.0, "share of each layer's output that training drops", at_least=0, below=1)
    prompts: float = option(
        0.0, "share of the rows whose beginning, of random length, stays clean as a prompt", at_least=0, at_most=1
    )
    ema: float = option(0.999, "decay of the weights' moving average; 0 keeps none", at_least=0, below=1)
    dtype: str = option("auto", "arithmetic of the matrix products", ("auto", "float32", "bfloat16"))
    device: str = option("auto", "where to train", ("auto", "cpu", "cuda", "mps"))
    compile: bool = option(False, "compile the network with torch.compile")
    checkpointing: bool = option(False, "recompute activations in the backward pass (saves memory)")
    shard: int = option(
        0, "of the processes that train together, how many share one copy of the weights; 0 = all", at_least=0
    )
    checkpoint_every: int = option(200, "steps between checkpoints", at_least=1)
    keep: int = option(2, "number of checkpoints kept", at_least=1)
    on_spike: str = option(
        "rollback",
        "after train.spikes bad steps in a row: go back to the last good checkpoint, stop, or go on skipping them",
        ("rollback", "stop", "skip"),
    )
    spikes: int = option(10, "bad steps in a row, all skipped, after which train.on_spike is done", at_least=1)
    rollbacks: int = option(3, "rollbacks without progress after which the run stops", at_least=1)
    hang_after: float = option(
        1800.0, "end the process when no step ends for so many seconds; 0 = never", at_least=0, below=1e9
    )
    evaluate_every: int = option(0, "steps between held-out evaluations; 0 means never", at_least=0)
    patience: int = option(
        0, "stop after so many evaluations without a better one, keep the best; 0 = never", at_least=0
    )
    sample_every: int = option(0, "steps between samples; 0 means never", at_least=0)
    sample_prompt: str = option("", "how the samples begin")
    threads: int = option(0, "CPU threads; 0 leaves it to torch", at_least=0)
    peak: float = option(0.0, "TFLOP/s of a device, for the share that is used; 0 = as its maker says", at_least=0)

    def __post_init__(self) -> None:
        """Refuse to wait for evaluations that never come."""
        if self.patience and not self.evaluate_every:
            raise ConfigError(
                f"train.patience: got {self.patience}, but there are no evaluations to count; set train.evaluate_every"
            )


@dataclass(frozen=True)
class Recipe:
    """Everything needed to make a model again."""

    name: str = option("", "name of the model")
    init: str = option("", "bundle whose weights and tokenizer training starts from; empty starts from noise")
    model: ModelConfig = field(default_factory=ModelConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: str = option("answers", "how `tune` learns; `train` does not read it", METHODS)
    chat: ChatConfig = field(default_factory=ChatConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    seed: int = option(0, "all randomness follows from it", at_least=0, below=2**63)

    def __post_init__(self) -> None:
        """Refuse a network that cannot read this process's noise."""
        check_latent(self.model, self.process)


def check_latent(model: ModelConfig, process: ProcessConfig) -> None:
    """ConfigError unless the network reads vectors exactly where the process noises them."""
    if process.kind == "gaussian" and not model.latent:
        raise ConfigError(
            "process.kind 'gaussian' noises embeddings: give their size as model.latent, such as 32, with "
            "model.time_conditioning = true and model.tied = false"
        )
    if model.latent and process.kind != "gaussian":
        raise ConfigError(f"model.latent is for gaussian noise, got process.kind {process.kind!r}; leave it at 0")
