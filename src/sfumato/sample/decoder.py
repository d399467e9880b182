"""The one decoding loop: everything that generates runs it.

Rows join at any step and leave when they are done. Each row has its own length, block, step count, sampler settings and
seed; one forward serves them all, whatever their phase.

Shape letters: B rows, L canvas length, N positions read in this step, C positions written in it, D width, V vocabulary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas, Where, Window
from sfumato.model.device import bookkeeping_device
from sfumato.model.layout import Causal, Layout
from sfumato.model.transformer import Denoiser
from sfumato.process import Process
from sfumato.sample.categorical import Draw
from sfumato.sample.order import entropy
from sfumato.sample.rows import Request, narrowed, new_rows, stacked
from sfumato.sample.sampler import Sampler
from sfumato.sample.trace import Commit, Event

RUNNERS_UP = 3
_NONE = 1 << 40  # a block number beyond all blocks


@dataclass
class Counters:
    """Work done, all rows together."""

    forwards: int = 0
    positions: int = 0
    """Query positions run through the network."""
    logits: int = 0
    """Positions projected to the vocabulary."""


class Decoder:
    """Holds the rows being written; `step` makes one forward for all of them."""

    def __init__(
        self, denoiser: Denoiser, process: Process, layout: Layout, *, end_id: int, device: torch.device | str
    ):
        """A decoder for one model.

        Args:
            denoiser: in evaluation mode.
            process: what noise is.
            layout: who sees whom.
            end_id: the end-of-text token; never written where more text is fixed to its right.
            device: where the denoiser is.
        """
        self.denoiser, self.process, self.layout = denoiser, process, layout
        self.end_id, self.network = end_id, torch.device(device)
        self.device = bookkeeping_device(self.network)
        self.counters = Counters()
        self._waiting: list[Request] = []
        self._rows: list[Request] = []  # the canvas's rows, in order
        self._canvas: Canvas | None = None
        self._next_id = 0

    def add(self, request: Request) -> int:
        """Queue a row; it takes part from the next step on.

        Raises:
            ValueError: its sampler makes no sense for the process, or nothing stands before the first token to predict.
        """
        if self.process.name not in request.sampler.processes:
            raise ValueError(f"sampler: {request.sampler.name!r} is not for the {self.process.name} process")
        if self.process.shift and request.editable[0]:
            raise ValueError(
                "the first token of a row cannot be written: nothing before it predicts it; fix a start token"
            )
        request = replace(request, id=self._next_id)
        self._next_id += 1
        self._waiting.append(request)
        return request.id

    def cancel(self, request_id: int) -> None:
        """Drop a row, waiting or running; unknown ids are ignored."""
        self._waiting = [request for request in self._waiting if request.id != request_id]
        self._keep([i for i, request in enumerate(self._rows) if request.id != request_id])

    @property
    def busy(self) -> bool:
        """Whether any row is waiting or running."""
        return bool(self._waiting or self._rows)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Advance every row by one step; one event for each row that asked for a trace or has finished."""
        self._admit()
        if self._canvas is None:
            return []
        canvas, window, seeds_B = self._plan(self._canvas)
        read_BL = torch.zeros_like(canvas.open_BL)
        samplers = self._samplers(window)
        for sampler, part in samplers:
            read_BL |= sampler.reads(canvas, part, process=self.process, seeds_B=seeds_B)
        index_N = read_BL.flatten().nonzero().flatten()
        after = canvas
        logits_NV = None
        if len(index_N):
            logits_NV = self._forward(canvas, index_N)
            draw = self._draw(canvas, seeds_B)
            for sampler, part in samplers:
                mine_N, index_M = _mine(part, index_N, len(samplers))
                logits_MV = logits_NV if mine_N is None else logits_NV[mine_N]
                after = sampler.step(logits_MV, index_M, after, part, process=self.process, draw=draw, seeds_B=seeds_B)
            after.memory["nfe_B"] = after.memory["nfe_B"] + read_BL.any(dim=1)
        wrote_BL = canvas.open_BL & ~after.open_BL  # and not what an end of text closes besides
        after = self._advance(after, window)
        self._canvas = after
        return self._report(wrote_BL, index_N, logits_NV)

    def _admit(self) -> None:
        """Put waiting rows onto the canvas."""
        if self._waiting:
            new, self._waiting = self._waiting, []
            fresh = new_rows(new, self.process, self.device)
            self._canvas = fresh if self._canvas is None else stacked(self._canvas, fresh)
            self._rows = self._rows + new

    def _plan(self, canvas: Canvas) -> tuple[Canvas, Window, Tensor]:
        """Each row's active block, the noise levels of this step, and its seeds."""
        memory = canvas.memory
        block_BL = torch.where(canvas.open_BL, memory["block_BL"], _NONE)
        block_B = block_BL.amin(dim=1)
        began_B = block_B == memory["active_B"]
        done_B = torch.where(began_B, memory["block_step_B"], 0)  # steps made in this block
        share_B, extra_B = memory["steps_B"] // memory["blocks_B"], memory["steps_B"] % memory["blocks_B"]
        steps_B = share_B + (block_B < extra_B)
        memory = {**memory, "active_B": block_B, "block_step_B": done_B}
        # A block may need more steps than its share when a sampler writes fewer than its quota (left to right).
        t_B = (1 - done_B.double() / steps_B).clamp(min=1e-9)
        s_B = (1 - (done_B + 1).double() / steps_B).clamp(min=0.0)
        window = Window(memory["block_BL"] == block_B[:, None], torch.where(s_B < 1e-12, 0.0, s_B))
        return replace(canvas, t_B=t_B, memory=memory), window, rng.mix(memory["seed_B"], memory["step_B"])

    def _samplers(self, window: Window) -> list[tuple[Sampler, Window]]:
        """The distinct samplers, each with the window restricted to its rows."""
        distinct = list(dict.fromkeys(request.sampler for request in self._rows))
        if len(distinct) == 1:
            return [(distinct[0], window)]
        which_B = torch.tensor([distinct.index(request.sampler) for request in self._rows], device=self.device)
        return [(s, Window(window.active_BL & (which_B == i)[:, None], window.s_B)) for i, s in enumerate(distinct)]

    def _forward(self, canvas: Canvas, index_N: Tensor) -> Tensor:
        """logits_NV at the flat positions index_N, and nowhere else."""
        rows, length = canvas.tokens_BL.shape
        shift = self.process.shift
        tokens_BL, position_BL = canvas.tokens_BL, canvas.position_BL
        run = length
        if isinstance(self.layout, Causal):  # what comes after the last position read is seen by nobody
            run = int((index_N % length).max()) + 1 - shift
        ragged = any(len(request.tokens) < length for request in self._rows)
        document_BL = torch.where(position_BL < 0, -1, 0)[:, :run] if ragged else None
        read_N = (index_N // length) * run + index_N % length - shift
        hidden_ND = self.denoiser.encode(
            tokens_BL[:, :run].to(self.network),
            where=Where(
                position_BL[:, :run].to(self.network), None if document_BL is None else document_BL.to(self.network)
            ),
            layout=self.layout,
            t_BQ=canvas.t_B.float()[:, None].expand(rows, run).to(self.network),
            read_N=read_N.to(self.network),
        )
        logits_NV = self.denoiser.readout(hidden_ND).to(self.device)
        self.counters.forwards += 1
        self.counters.positions += rows * run
        self.counters.logits += len(index_N)
        closed_N = ~canvas.memory["tail_BL"].flatten()[index_N]
        logits_NV[:, self.end_id].masked_fill_(closed_N, float("-inf"))
        return logits_NV

    def _draw(self, canvas: Canvas, seeds_B: Tensor) -> Draw:
        memory = canvas.memory
        return Draw(
            memory["temperature_B"],
            memory["top_k_B"],
            memory["top_p_B"],
            seeds_B,
            random=any(request.temperature > 0 for request in self._rows),
            filtered=any(request.top_k > 0 or request.top_p < 1 for request in self._rows),
        )

    def _advance(self, canvas: Canvas, window: Window) -> Canvas:
        """Count the step, and close what stands after an end of text that nothing open precedes."""
        ended_BL = (canvas.tokens_BL == self.end_id) & canvas.memory["tail_BL"] & ~canvas.open_BL
        settled_BL = canvas.open_BL.cumsum(dim=1) == 0
        over_BL = (ended_BL & settled_BL).cumsum(dim=1) > 0
        rest_BL = over_BL & canvas.open_BL
        memory = dict(canvas.memory)
        memory["step_B"] = memory["step_B"] + 1
        memory["block_step_B"] = memory["block_step_B"] + 1
        tokens_BL = torch.where(rest_BL, self.end_id, canvas.tokens_BL)
        return replace(canvas, tokens_BL=tokens_BL, open_BL=canvas.open_BL & ~rest_BL, t_B=window.s_B, memory=memory)

    def _report(self, wrote_BL: Tensor, index_N: Tensor, logits_NV: Tensor | None) -> list[Event]:
        """Events of the rows that are traced or done; those that are done leave. One transfer to the host."""
        canvas = self._canvas
        assert canvas is not None
        columns = (canvas.open_BL.any(dim=1), canvas.memory["step_B"], canvas.memory["nfe_B"])
        open_B, step_B, nfe_B = torch.stack(columns).tolist()
        commits: dict[int, list[Commit]] = {}
        if logits_NV is not None and any(request.trace for request in self._rows):
            commits = _commits(wrote_BL, canvas, index_N, logits_NV)
        events = []
        for i, request in enumerate(self._rows):
            if request.trace or not open_B[i]:
                tokens = None if open_B[i] else tuple(canvas.tokens_BL[i, : len(request.tokens)].tolist())
                shown = tuple(commits.get(i, ())) if request.trace else ()
                events.append(Event(request.id, step_B[i], nfe_B[i], shown, tokens))
        self._keep([i for i, still_open in enumerate(open_B) if still_open])
        return events

    def _keep(self, rows: list[int]) -> None:
        """Drop all rows but these, and the columns that no row needs any more."""
        if len(rows) == len(self._rows):
            return
        self._rows = [self._rows[i] for i in rows]
        if not rows or self._canvas is None:
            self._canvas = None
            return
        length = max(len(request.tokens) for request in self._rows)
        canvas = self._canvas.select(torch.tensor(rows, device=self.device))
        self._canvas = narrowed(canvas, length)


def _mine(part: Window, index_N: Tensor, samplers: int) -> tuple[Tensor | None, Tensor]:
    """Which of the read positions belong to this sampler; None = all."""
    if samplers == 1:
        return None, index_N
    mine_N = part.active_BL.flatten()[index_N]
    return mine_N, index_N[mine_N]


def _commits(wrote_BL: Tensor, after: Canvas, index_N: Tensor, logits_NV: Tensor) -> dict[int, list[Commit]]:
    """What was written in this step, by row, with what the network thought of it."""
    written_N = wrote_BL.flatten()[index_N]
    index_C, logits_CV = index_N[written_N], logits_NV[written_N].float()
    token_C = after.tokens_BL.flatten()[index_C]
    p_CV = logits_CV.softmax(dim=-1)
    best = p_CV.topk(min(RUNNERS_UP + 1, p_CV.shape[-1]), dim=-1)
    columns = zip(
        index_C.tolist(),
        token_C.tolist(),
        p_CV.gather(1, token_C[:, None]).squeeze(1).tolist(),
        entropy(logits_CV).tolist(),
        best.indices.tolist(),
        best.values.tolist(),
        strict=True,
    )
    commits: dict[int, list[Commit]] = {}
    for index, token, probability, nats, others, chances in columns:
        row, position = divmod(index, wrote_BL.shape[1])
        others = [(other, p) for other, p in zip(others, chances, strict=True) if other != token][:RUNNERS_UP]
        commits.setdefault(row, []).append(Commit(position, token, probability, nats, tuple(others)))
    return commits
