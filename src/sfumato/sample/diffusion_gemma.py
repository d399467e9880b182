"""DiffusionGemma: a network of the `transformers` library with a loop of its own, behind our `Generation`.

An encoder reads what is written; a decoder denoises a canvas of a fixed length, in which noise is random words, and
reads its own previous prediction; then the canvas is read by the encoder and the next one begins. That is block
diffusion with uniform noise, self-conditioning and an exact cache of what is finished. Network and loop are the
library's (`DiffusionGemmaForBlockDiffusion.generate`). Ours is what surrounds them: the same seed writes the same text
whatever is written beside it, costs are counted as everywhere, mistakes are one line.

Not supported: our samplers, caches, guidance and constraints, training, evaluation, serving, pictures.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sfumato import rng
from sfumato.config import ConfigError
from sfumato.model.device import resolve_device, resolve_dtype
from sfumato.model.weights import BundleError
from sfumato.sample.settings import Settings
from sfumato.sample.writing import Generation, Stats
from sfumato.text.tokenizer import check_text

KIND = "diffusion_gemma"


@dataclass(frozen=True)
class DiffusionGemma:
    """A model of this kind, with its tokenizer."""

    network: Any
    tokenizer: Any
    """Of the `tokenizers` library."""

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", dtype: str = "auto") -> "DiffusionGemma":
        """Load a folder, from safetensors alone and without code of its own.

        Args:
            folder: config.json, *.safetensors and tokenizer.json.
            device: auto, cpu, cuda or mps.
            dtype: auto, float32 or bfloat16.

        Raises:
            ValueError: no such model, or transformers is missing or too old; one line.
        """
        folder = Path(folder)
        if find_spec("transformers") is None:
            raise ConfigError("DiffusionGemma needs transformers, not installed here: pip install 'sfumato[hub]'")
        import tokenizers
        import transformers

        from sfumato.model.hub.files import read_json

        family = getattr(transformers, "DiffusionGemmaForBlockDiffusion", None)
        if family is None:
            raise ConfigError(
                f"DiffusionGemma is not in transformers {transformers.__version__}: pip install -U transformers"
            )
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise BundleError(f"{folder}: no DiffusionGemma model: {name} is missing; download the folder again")
        if (kind := read_json(folder / "config.json").get("model_type")) != KIND:
            raise BundleError(f"{folder / 'config.json'}: model_type is {kind!r}, expected {KIND!r}; use sfumato.load")
        where = resolve_device(device)
        try:
            network = family.from_pretrained(
                folder, dtype=resolve_dtype(dtype, where), local_files_only=True, use_safetensors=True
            )
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # whatever the libraries raise at a broken folder
            raise BundleError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from None
        return cls(network.to(where).eval().requires_grad_(False), tokenizer)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int = 256,
        steps: int | None = None,
        entropy_bound: float | None = None,
        seed: int = 0,
    ) -> list[Generation]:
        """Continue prompts, one after the other, each with its own randomness.

        Args:
            prompts: texts; an instructed model expects its chat template filled in.
            max_tokens: at most so many, in whole canvases.
            steps: at most so many in a canvas; None = as the folder says.
            entropy_bound: nats that may be lost in a step; None = as the folder says.
            seed: the text follows from it.

        Raises:
            ValueError: an option out of its range.
        """
        if max_tokens < 1 or (steps is not None and steps < 1):
            raise ConfigError(f"max_tokens and steps: expected at least 1, got {max_tokens} and {steps}")
        if entropy_bound is not None and not entropy_bound > 0:
            raise ConfigError(f"entropy_bound: expected a number above 0, got {entropy_bound}")
        if isinstance(prompts, str):
            raise ConfigError(f"prompts: expected several texts, got one; use [{prompts[:20]!r}]")
        return [self._write(prompt, max_tokens, steps, entropy_bound, seed, i) for i, prompt in enumerate(prompts)]

    def _write(
        self, prompt: str, max_tokens: int, steps: int | None, bound: float | None, seed: int, row: int
    ) -> Generation:
        """One text."""
        check_text(prompt, "prompt")
        device, ids = self.network.device, self.tokenizer.encode(prompt).ids
        settings = _settings(max_tokens, steps, bound)
        work = _Work(self.network)
        start = time.perf_counter()
        # The loop draws from torch's global generator; it gets one that follows from the seed, and gives it back.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(int(rng.mix(seed, row)) % 2**63)
            with work:
                written = self.network.generate(input_ids=torch.tensor([ids], device=device), **settings)
        tokens = written.sequences[0].tolist()
        found = self._end(tokens, len(ids), max_tokens)
        seconds, completion = time.perf_counter() - start, self.tokenizer.decode(tokens[len(ids) : found.end])
        committed = found.end + found.stopped - len(ids)
        return Generation(
            text=prompt + completion,
            completion=completion,
            tokens=tuple(tokens),
            finish_reason="stop" if found.stopped else "length",
            seed=seed,
            settings=Settings(sampler="entropy_bounded", steps=steps, seed=seed),
            stats=Stats(
                nfe=work.forwards,
                committed=committed,
                tpf=committed / max(1, work.forwards),
                seconds=seconds,
                tokens_per_second=committed / seconds,
                positions_evaluated=work.positions,
            ),
        )

    def _end(self, tokens: list[int], begin: int, max_tokens: int) -> "_End":
        """Where the text ends."""
        text_config = self.network.config.text_config
        listed = getattr(self.network.generation_config, "eos_token_id", None) or text_config.eos_token_id
        ends = set(listed if isinstance(listed, list) else [listed])
        room = range(begin, min(len(tokens), begin + max_tokens))
        end = next((place for place in room if tokens[place] in ends), None)
        return _End(room.stop, False) if end is None else _End(end, True)


def _settings(max_tokens: int, steps: int | None, bound: float | None) -> dict[str, Any]:
    """What the library's loop is told; what is not said is as the folder's generation_config.json says."""
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

    chosen: dict[str, Any] = {"max_new_tokens": max_tokens}
    if steps is not None:
        chosen["max_denoising_steps"] = steps
    if bound is not None:
        chosen["sampler_config"] = EntropyBoundSamplerConfig(entropy_bound=float(bound))
    return chosen


@dataclass(frozen=True)
class _End:
    end: int
    stopped: bool
    """Whether the model ended it."""


class _Work:
    """Counts forwards of the encoder and the decoder alike, and the places they run, while it is entered."""

    def __init__(self, network: Any):
        self.network, self.forwards, self.positions = network, 0, 0

    def _count(self, module: Any, given: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        self.forwards += 1
        self.positions += out.last_hidden_state.shape[:2].numel()

    def __enter__(self) -> None:
        parts = (self.network.model.encoder, self.network.model.decoder)
        self._hooks = [part.register_forward_hook(self._count, with_kwargs=True) for part in parts]

    def __exit__(self, *raised: object) -> None:
        for hook in self._hooks:
            hook.remove()
