"""Answers that a policy writes: groups of them to each prompt, all in one batch of the decoder.

Shape letters: B answers, L row length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sfumato.canvas import Where
from sfumato.model.layout import Block, Layout, numbered
from sfumato.model.transformer import Denoiser
from sfumato.sample.decoder import Decoder
from sfumato.sample.front import Front, Plan
from sfumato.text.interface import AnyTokenizer
from sfumato.text.prompt import Row, text_of

_TOGETHER = 256  # rows decoded at once


@dataclass(frozen=True)
class Answers:
    """Finished rows, padded to the longest."""

    tokens_BL: Tensor
    """int64."""
    position_BL: Tensor
    """int64, -1 = padding."""
    written_BL: Tensor
    """bool, what the policy could write."""
    scored_BL: Tensor
    """bool, what it did write: up to and with the first end of the text; behind it nothing was decided."""

    def select(self, rows: slice) -> "Answers":
        """Some of the rows."""
        return Answers(*(part[rows] for part in vars(self).values()))

    def where(self, layout: Layout) -> tuple[Where, Tensor | None]:
        """Who the places are, and their noise groups where the layout has blocks."""
        document_BL = torch.where(self.position_BL < 0, -1, 0)
        block_BL, group_BL = numbered(self.position_BL, layout.size) if isinstance(layout, Block) else (None, None)
        return Where(self.position_BL, document_BL, block_BL), group_BL


def written(
    denoiser: Denoiser, front: Front, plan: Plan, rows: Sequence[Row], seeds: Sequence[int], device: torch.device
) -> list[tuple[int, ...]]:
    """The finished rows, in order; each is a function of the weights, the row and its seed.

    Args:
        denoiser: on `device`.
        front: the model's process and layout.
        plan: sampler and settings.
        rows: to write.
        seeds: of each, from 0 to 2**63 - 1.
        device: where the denoiser is.
    """
    found: dict[int, tuple[int, ...]] = {}
    for begin in range(0, len(rows), _TOGETHER):
        decoder = Decoder(denoiser, front.process, front.layout, end_id=front.config.tokens.end, device=device)
        for i in range(begin, min(begin + _TOGETHER, len(rows))):
            steps = plan.steps(rows[i].room)
            decoder.add(plan.request(rows[i].tokens, rows[i].editable, steps=steps, seed=seeds[i]))
        while decoder.busy:
            for event in decoder.step():
                if event.tokens is not None:
                    found[begin + event.request] = event.tokens
    return [found[i] for i in range(len(rows))]


def answers_of(rows: Sequence[Row], tokens: Sequence[Sequence[int]], tokenizer: AnyTokenizer) -> Answers:
    """The finished rows as tensors."""
    length = max(map(len, tokens))

    def padded(values: Sequence[Sequence[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in values])

    scored = []
    for row, found in zip(rows, tokens, strict=True):
        ends = [editable and token == tokenizer.end_id for editable, token in zip(row.editable, found, strict=True)]
        before = [0, *accumulate(map(int, ends))][:-1]
        scored.append([int(editable and not n) for editable, n in zip(row.editable, before, strict=True)])
    return Answers(
        padded(tokens, tokenizer.pad_id),
        padded([range(len(row)) for row in tokens], -1),
        padded([list(map(int, row.editable)) for row in rows], 0).bool(),
        padded(scored, 0).bool(),
    )


def answer_text(tokenizer: AnyTokenizer, row: Row, tokens: Sequence[int], *, whole: bool) -> str:
    """What a reward reads: the answer, or all of the text where it was filled in."""
    return text_of(tokenizer, tokens, 0 if whole else row.first_written)
