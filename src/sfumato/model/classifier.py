"""A classifier of noised text: the transformer's trunk, the mean over the text, a linear layer.

Its folder holds `config.json` and `classifier.safetensors`. It reads the tokens of one tokenizer, which it names.

Shape letters: B rows, L row length, C labels, D width, N positions, V vocabulary.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.canvas import Where
from sfumato.config import ModelConfig, from_mapping
from sfumato.model.bundle import SpecialTokens
from sfumato.model.layout import Full
from sfumato.model.transformer import Transformer
from sfumato.model.weights import BundleError, fill

FORMAT = "sfumato-classifier-1"
WEIGHTS = "classifier.safetensors"


@dataclass(frozen=True)
class ClassifierConfig:
    """The contents of config.json."""

    model: ModelConfig
    labels: tuple[str, ...]
    tokens: SpecialTokens
    tokenizer_sha256: str
    made: dict[str, Any] = field(default_factory=dict)
    """How it was made: data, steps, accuracy on held-out texts."""


class Classifier(nn.Module):
    """log p(label | text), where some of the text may be noise. It sees all of the text up to the first end."""

    def __init__(self, config: ClassifierConfig):
        """Random weights; see `start_from`."""
        super().__init__()
        self.config = config
        self.trunk = Transformer(config.model)
        self.head = nn.Linear(config.model.width, len(config.labels))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def start_from(self, denoiser: Transformer) -> "Classifier":
        """Take the lowest layers of a denoiser of the same widths: they know noised text already."""
        weights = denoiser.state_dict()
        self.trunk.load_state_dict({name: weights[name].to(t.dtype) for name, t in self.trunk.state_dict().items()})
        return self

    def label(self, name: str) -> int:
        """The number of a label.

        Raises:
            ValueError: there is no such label; names those there are.
        """
        if name not in self.config.labels:
            raise ValueError(f"label: got {name!r}, this classifier knows {', '.join(self.config.labels)}")
        return self.config.labels.index(name)

    def forward(self, inputs: Tensor, position_BL: Tensor, read_BL: Tensor, t_B: Tensor) -> Tensor:
        """Log p(label | text), (B, C).

        Args:
            inputs: int64 tokens (B, L), or their embeddings (B, L, D).
            position_BL: int64.
            read_BL: bool, what belongs to the text; the rest is not seen.
            t_B: noise levels; only a time-conditioned trunk reads them.
        """
        where = Where(position_BL, torch.where(read_BL, 0, -1))
        t_BL = t_B.float()[:, None].expand_as(position_BL)
        hidden_BLD = self.trunk.encode(inputs, where=where, layout=Full(), t_BQ=t_BL)
        read_BL1 = read_BL[..., None].to(hidden_BLD.dtype)
        mean_BD = (hidden_BLD * read_BL1).sum(dim=1) / read_BL1.sum(dim=1).clamp(min=1)
        return self.head(mean_BD).log_softmax(dim=-1)

    def read(self, tokens_BL: Tensor, position_BL: Tensor) -> Tensor:
        """bool_BL, what is text: no padding, and nothing from the first end token on."""
        return (position_BL >= 0) & ((tokens_BL == self.config.tokens.end).cumsum(dim=1) == 0)

    @torch.inference_mode()
    def log_probability(self, tokens_BL: Tensor, position_BL: Tensor, t_B: Tensor) -> Tensor:
        """Log p(label | text), (B, C), of a canvas's rows."""
        return self(tokens_BL, position_BL, self.read(tokens_BL, position_BL), t_B)

    def first_order(self, tokens_BL: Tensor, position_BL: Tensor, t_B: Tensor, label: int, index_N: Tensor) -> Tensor:
        """What each token at each of these places would add to log p(label | text), to first order, (N, V).

        The embedding is moved along the gradient: (e_token - e_now) . d log p / d e. Special tokens add nothing.
        """
        with torch.inference_mode(False), torch.enable_grad():
            tokens_BL, position_BL, t_B = tokens_BL.clone(), position_BL.clone(), t_B.clone()
            table_VD = self.trunk.embedding.weight.detach()
            vectors_BLD = table_VD[tokens_BL].requires_grad_()
            log_p_BC = self(vectors_BLD, position_BL, self.read(tokens_BL, position_BL), t_B)
            (slope_BLD,) = torch.autograd.grad(log_p_BC[:, label].sum(), vectors_BLD)
        slope_ND = slope_BLD.flatten(0, 1)[index_N]
        now_N = (slope_ND * table_VD[tokens_BL.flatten()[index_N]]).sum(dim=-1)
        gain_NV = slope_ND @ table_VD.T - now_N[:, None]
        gain_NV[:, list(dataclasses.astuple(self.config.tokens))] = 0.0
        return gain_NV

    def save(self, folder: Path) -> None:
        """Write the folder.

        Raises:
            OSError: it cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **dataclasses.asdict(self.config)}
        try:
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
            save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{folder / WEIGHTS}: cannot write the classifier ({error})") from None
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "Classifier":
        """Read and check a folder.

        Raises:
            BundleError: one line that says what is missing or wrong.
        """
        folder = Path(folder)
        path = folder / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        except FileNotFoundError as error:
            raise BundleError(f"{folder}: no classifier: {Path(error.filename or WEIGHTS).name} is missing") from None
        except (ValueError, SafetensorError, OSError) as error:
            raise BundleError(f"{folder}: damaged classifier ({error}); train it again") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise BundleError(f'{path}: not a Sfumato classifier: expected "format": "{FORMAT}"')
        classifier = cls(from_mapping(ClassifierConfig, content, where=str(path)))
        fill(classifier, state, folder)
        return classifier.to(device).eval().requires_grad_(False)
