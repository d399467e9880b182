"""Networks of a size, with the batch they are usually trained with: what to plan where there is no recipe yet."""

from dataclasses import replace

from sfumato.config import ModelConfig, Recipe, TrainConfig

_TRAIN = TrainConfig(dtype="bfloat16", device="cuda", optimizer="adamw", checkpointing=True)
SHAPES = {
    "1B": Recipe(
        name="1B",
        model=ModelConfig(
            32000, 2048, layers=22, heads=32, kv_heads=4, mlp_width=5632, context=2048, tied=False, qk_norm=False
        ),
        train=replace(_TRAIN, batch=8, accumulate=128),
    ),
    "8B": Recipe(
        name="8B",
        model=ModelConfig(
            126464, 4096, layers=32, heads=32, mlp_width=12288, context=4096, tied=False, qk_norm=False, rope_theta=5e5
        ),
        train=replace(_TRAIN, batch=2, accumulate=512),
    ),
    "100B": Recipe(
        name="100B",
        model=ModelConfig(131072, 10240, layers=88, heads=80, kv_heads=8, mlp_width=28672, context=4096, tied=False),
        train=replace(_TRAIN, batch=1, accumulate=2048),
    ),
}
"""The shapes of TinyLlama-1.1B and of LLaDA-8B; 100B is a dense network with the proportions of Llama-2-70B."""
