"""How much each visible token changes what the network thinks of one of them: mask it, and look.

A masked model answers this by itself, since it was trained on every pattern of masks.

Shape letters: B rows, one for each token that is hidden, L length of the text, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sfumato.canvas import Where
from sfumato.model.layout import Unmasked
from sfumato.sample.language_model import LanguageModel

_ROWS = 8  # in a forward, between which others may run


@dataclass(frozen=True)
class Influence:
    """What the tokens of a text do to one of them."""

    place: int
    probability: float
    """Of the token there, given all others."""
    delta: tuple[tuple[int, float], ...]
    """For each other place but that of a start token: by how many nats its token raises the log-probability."""


def influence(model: LanguageModel, tokens: tuple[int, ...], place: int) -> Influence:
    """All of `influence_steps` at once."""
    return next(found for found in influence_steps(model, tokens, place) if found)


@torch.inference_mode()
def influence_steps(model: LanguageModel, tokens: tuple[int, ...], place: int) -> Iterator[Influence | None]:
    """Hide the token at `place`, and with it each other token in turn.

    Args:
        model: masked or hybrid, with a layout in which all of the text is seen at once.
        tokens: the row, with what opens a text; masks in it stay masks and influence nothing.
        place: a column of it.

    Yields:
        None after each forward, then what was found.

    Raises:
        ValueError: a model that cannot hide a token, a text that is too long, or a place that is not in it.
    """
    if model.process.name not in ("masked", "hybrid"):
        raise ValueError(f"influence: not for the {model.process.name} process, which cannot hide a token; use masked")
    config = model.bundle.config.model
    seen = config.block if model.layout.name == "block" else config.context
    if not 1 < len(tokens) <= seen:
        raise ValueError(f"influence: expected 2 to {seen} tokens, which the model sees at once, got {len(tokens)}")
    first = len(model.tokenizer.begin)
    if not first <= place < len(tokens):
        raise ValueError(f"position: expected {first} to {len(tokens) - 1}, a token of the text, got {place}")
    mask_id = model.bundle.config.tokens.mask
    others = [i for i in range(first, len(tokens)) if i != place and tokens[i] != mask_id]
    text_L = torch.tensor(tokens)
    rows_BL = text_L.repeat(1 + len(others), 1)
    rows_BL[:, place] = mask_id
    rows_BL[torch.arange(1, len(rows_BL)), torch.tensor(others, dtype=torch.int64)] = mask_id
    log_p: list[float] = []
    for part_BL in rows_BL.split(_ROWS):
        log_p += _log_p(model, part_BL, place, int(text_L[place]))
        yield None
    base, *without = log_p
    delta = tuple((i, base - value) for i, value in zip(others, without, strict=True))
    yield Influence(place, float(torch.tensor(base).exp()), delta)


def _log_p(model: LanguageModel, rows_BL: torch.Tensor, place: int, token: int) -> list[float]:
    """The log-probability of the token at the place of each row, in nats."""
    count, length = rows_BL.shape
    position_BL = torch.arange(length).expand(count, -1)
    t_BL = (rows_BL == model.bundle.config.tokens.mask).float().mean(dim=1, keepdim=True).expand(-1, length)
    hidden_BD = model.denoiser.encode(
        rows_BL.to(model.device),
        where=Where(position_BL, None).to(model.device),
        layout=Unmasked(model.layout),
        t_BQ=t_BL.to(model.device),
        read_N=(torch.arange(count) * length + max(0, place - model.process.shift)).to(model.device),
    )
    return model.denoiser.readout(hidden_BD).double().log_softmax(dim=-1)[:, token].tolist()
