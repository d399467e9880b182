"""The one decoding loop: everything that generates runs it.

Rows join at any step and leave when they are done. Each row has its own length, block, step count, sampler settings and
seed; one forward serves them all, whatever their phase.

Shape letters: B rows, L canvas length, N positions read in this step, C positions written in it, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sfumato import rng
from sfumato.canvas import Canvas, Window
from sfumato.model.device import bookkeeping_device
from sfumato.model.layout import Layout
from sfumato.model.transformer import Denoiser
from sfumato.process import Gaussian, Growing, Masked, Process
from sfumato.sample.beginnings import Beginnings
from sfumato.sample.categorical import Draw
from sfumato.sample.compiled import CompiledTrunk
from sfumato.sample.constraint.constrained import check_constraint, constrained, kept
from sfumato.sample.forward import Counters, Forward
from sfumato.sample.guided import Guided
from sfumato.sample.latents import Latents
from sfumato.sample.prefix import PrefixStore
from sfumato.sample.reuse import Reuse
from sfumato.sample.rows import Request, grown, narrowed, new_rows, stacked
from sfumato.sample.sampler import Sampler
from sfumato.sample.trace import Event
from sfumato.sample.watch import Sight, sights

_NONE = 1 << 40  # a block number beyond all blocks


class Decoder:
    """Holds the rows being written; `step` makes one forward for all of them."""

    def __init__(
        self,
        denoiser: Denoiser,
        process: Process,
        layout: Layout,
        *,
        end_id: int,
        device: torch.device | str,
        reuse: Reuse | None = None,
        compiled: CompiledTrunk | None = None,
        prefixes: PrefixStore | None = None,
    ):
        """A decoder for one model.

        Args:
            denoiser: in evaluation mode.
            process: what noise is.
            layout: who sees whom.
            end_id: the end-of-text token; never written where more text is fixed to its right.
            device: where the denoiser is.
            reuse: what is kept between steps; None = whatever is exact.
            compiled: runs the denoiser in its place for the shapes that repeat; may serve many decoders.
            prefixes: where exact caches of finished rows are kept for rows that begin alike; None = nowhere.
        """
        self.denoiser, self.process, self.layout, self.end_id = denoiser, process, layout, end_id
        self.reuse = reuse or Reuse.chosen("auto", layout)
        self.growing = process if isinstance(process, Growing) else None
        if self.growing and self.reuse.keeps:
            raise ValueError(f"cache: {self.reuse.name!r} keeps places, but rows of this model grow and move; use none")
        if self.growing:  # no two steps have the same shape
            compiled = None
        self.device = bookkeeping_device(torch.device(device))
        self.latents = None
        if isinstance(process, Gaussian):
            self.latents = Latents(process, _table(denoiser, process.vocab_size).to(self.device))
        where = torch.device(device)
        self.forward = Forward(denoiser, layout, process, self.reuse, where, compiled, self.latents)
        self.prefixes = None
        if prefixes is not None and prefixes.limit and self.reuse.name == "exact":
            self.prefixes = Beginnings(prefixes, self.forward)
        self.guided = Guided(self.forward.beside(), process, layout, end_id, self.device)
        self._mask_id = _drawable_mask(denoiser, process)
        self._waiting: list[Request] = []
        self._rows: list[Request] = []  # the canvas's rows, in order
        self._canvas: Canvas | None = None
        self._next_id = 0

    @property
    def counters(self) -> Counters:
        """Work done so far."""
        return self.forward.counters

    def check(self, request: Request) -> None:
        """Refuse a row that this decoder cannot write.

        Raises:
            ValueError: its sampler, its guidance or its constraint makes no sense for the model, its steps are fewer
                than its blocks, or nothing stands before the first token to predict.
        """
        if self.process.name not in request.sampler.processes:
            raise ValueError(f"sampler: {request.sampler.name!r} is not for the {self.process.name} process")
        if self.process.name == "autoregressive" and request.editable[0]:
            raise ValueError(
                "the first token of a row cannot be written: nothing before it predicts it; fix a start token"
            )
        if any(request.gaps) and not self.growing:
            raise ValueError(
                f"a hole of any length is not for the {self.process.name} process; give it a length: {{n}}"
            )
        request.blocks(self.layout)
        self.guided.check(request)
        check_constraint(request, self.process)

    def add(self, request: Request) -> int:
        """Queue a row, which takes part from the next step on; ValueError as `check`."""
        self.check(request)
        request = replace(request, id=self._next_id)
        self._next_id += 1
        self._waiting.append(request)
        return request.id

    def cancel(self, request_id: int) -> None:
        """Drop a row, waiting or running; unknown ids are ignored."""
        self._waiting = [request for request in self._waiting if request.id != request_id]
        self._keep([i for i, request in enumerate(self._rows) if request.id != request_id])

    def fork(self, parents: Sequence[int], seeds: Sequence[int]) -> list[int]:
        """Go on with these running rows alone; one that is named twice is forked, cache and all.

        Args:
            parents: ids of running rows.
            seeds: of the rows that come of them.

        Returns:
            Their new ids.
        """
        places = {request.id: i for i, request in enumerate(self._rows)}
        self._select([places[parent] for parent in parents])
        first, self._next_id = self._next_id, self._next_id + len(parents)
        self._rows = [
            replace(r, id=first + i, seed=seed) for i, (r, seed) in enumerate(zip(self._rows, seeds, strict=True))
        ]
        if self._canvas is not None:
            self._canvas.memory["seed_B"] = torch.tensor(list(seeds), device=self.device)
        return [request.id for request in self._rows]

    @torch.inference_mode()
    def preview(self) -> dict[int, tuple[int, ...]]:
        """Each running row as it would be if its active block ended now, with the most probable token at every place.

        What stands behind the active block and is still open is left out. Costs a forward pass.
        """
        self._admit()
        if self._canvas is None:
            return {}
        memory = self._canvas.memory
        read_BL = self._canvas.open_BL & (memory["block_BL"] == memory["active_B"][:, None])
        index_N = read_BL.flatten().nonzero().flatten()
        logits_NV, canvas, passes_B = self._logits(self._canvas, index_N)
        canvas.memory["nfe_B"] = canvas.memory["nfe_B"] + 1 + passes_B
        self._canvas = canvas
        filled = canvas.write(index_N, self.process.denoised(logits_NV, index_N, canvas).argmax(dim=-1))
        shown_BL = ~filled.open_BL & (filled.position_BL >= 0)
        rows = zip(self._rows, filled.tokens_BL, shown_BL, strict=True)
        return {request.id: tuple(tokens_L[shown_L].tolist()) for request, tokens_L, shown_L in rows}

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
        seeds_B = rng.mix(self._canvas.memory["seed_B"], self._canvas.memory["step_B"])
        canvas, samplers = self._plan(self._canvas, seeds_B)
        read_BL = torch.zeros_like(canvas.open_BL)
        for sampler, part in samplers:
            read_BL |= sampler.reads(canvas, part, process=self.process, seeds_B=seeds_B) & part.active_BL
        index_N = read_BL.flatten().nonzero().flatten()
        gap_G = self._gaps(canvas, samplers)
        if gap_G is not None:
            read_BL = read_BL.flatten().index_fill(0, gap_G, True).view_as(read_BL)
        logits_NV = torch.zeros(0, 1, device=self.device)
        if len(index_N) or (gap_G is not None and len(gap_G)):
            logits_NV, canvas, passes_B = self._logits(canvas, index_N, gap_G)
            canvas.memory["nfe_B"] = canvas.memory["nfe_B"] + read_BL.any(dim=1) + passes_B
        after, s_B = canvas, torch.zeros_like(canvas.t_B)
        told_NV, draw = constrained(self._rows, logits_NV, index_N, canvas, self._draw(canvas, seeds_B))
        for sampler, part in samplers:
            s_B = torch.where(part.active_BL.any(dim=1), part.s_B, s_B)
            mine_N, index_M = _mine(part, index_N, len(samplers))
            logits_MV = told_NV if mine_N is None else told_NV[mine_N]
            after = sampler.step(logits_MV, index_M, after, part, process=self.process, draw=draw, seeds_B=seeds_B)
        after = kept(self._rows, canvas, after, draw)
        seen = sights(self._rows, canvas, after, index_N, logits_NV, revises=self.process.revises)
        new_BL = None
        if self.growing:
            after, new_BL = grown(after, self.growing.mask_id)
        self._canvas = self._advance(replace(after, t_B=torch.where(after.t_B <= 0, 0.0, s_B)))
        return self._report(seen, new_BL)

    def _gaps(self, canvas: Canvas, samplers: list[tuple[Sampler, Window]]) -> Tensor | None:
        """Flat places after which samplers may insert, for rows that grow; and nothing is inserted so far."""
        if not self.growing:
            return None
        gap_BL = torch.zeros_like(canvas.open_BL)
        for sampler, part in samplers:
            if (gaps_BL := sampler.gaps(canvas, part)) is not None:
                gap_BL |= gaps_BL & part.active_BL
        canvas.memory["insert_BL"] = torch.zeros_like(canvas.tokens_BL)
        canvas.memory["log_rate_BL"] = torch.zeros_like(canvas.tokens_BL, dtype=torch.float64)
        return gap_BL.flatten().nonzero().flatten()

    def _logits(self, canvas: Canvas, index_N: Tensor, gap_G: Tensor | None = None) -> tuple[Tensor, Canvas, Tensor]:
        """Scores of the active blocks at index_N, guided; the canvas; the passes that guidance took of each row."""
        window = Window(canvas.memory["block_BL"] == canvas.memory["active_B"][:, None], canvas.t_B)
        logits_NV, canvas = self.forward(canvas, window, index_N, gap_G)
        logits_NV, passes_B = self.guided(logits_NV, index_N, canvas, window)
        closed_N = ~canvas.memory["tail_BL"].flatten()[index_N]
        logits_NV[:, self.end_id].masked_fill_(closed_N, float("-inf"))
        if self.latents is not None:
            logits_NV, canvas = self.latents.predict(logits_NV, index_N, canvas)
        return logits_NV, canvas, passes_B

    def _admit(self) -> None:
        """Put waiting rows onto the canvas."""
        if self._waiting:
            new, self._waiting = self._waiting, []
            embed = self.denoiser.embed if self.latents is not None else None
            fresh = new_rows(new, self.process, self.layout, self.device, embed)
            self._canvas = fresh if self._canvas is None else stacked(self._canvas, fresh)
            self._rows = self._rows + new
            self.guided.admit(new)
            if self.prefixes is not None:
                self._canvas = self.prefixes.adopt(self._canvas, self._rows, len(new))

    def _plan(self, canvas: Canvas, seeds_B: Tensor) -> tuple[Canvas, list[tuple[Sampler, Window]]]:
        """The canvas at the noise levels of this step; and the distinct samplers, each with its rows' active blocks."""
        memory = canvas.memory
        active_BL = memory["block_BL"] == memory["active_B"][:, None]
        steps_B = torch.where(active_BL, memory["steps_BL"], 0).amax(dim=1)
        distinct = list(dict.fromkeys(request.sampler for request in self._rows))
        which_B = torch.tensor([distinct.index(request.sampler) for request in self._rows], device=self.device)
        t_B, parts = canvas.t_B, []
        for i, sampler in enumerate(distinct):
            levels = sampler.levels(canvas, memory["block_step_B"], steps_B, process=self.process, seeds_B=seeds_B)
            t_B = torch.where(which_B == i, levels[0], t_B)
            mine_BL = active_BL if len(distinct) == 1 else active_BL & (which_B == i)[:, None]
            parts.append((sampler, Window(mine_BL, levels[1])))
        return replace(canvas, t_B=t_B), parts

    def _draw(self, canvas: Canvas, seeds_B: Tensor) -> Draw:
        memory = canvas.memory
        return Draw(
            memory["temperature_B"],
            memory["top_k_B"],
            memory["top_p_B"],
            seeds_B,
            random=any(request.temperature > 0 for request in self._rows),
            filtered=any(request.top_k > 0 or request.top_p < 1 for request in self._rows),
            mask_id=self._mask_id,
        )

    def _advance(self, canvas: Canvas) -> Canvas:
        """Count the step, close what stands after an end of text, and begin the next block where one is done."""
        memory, block_BL = dict(canvas.memory), canvas.memory["block_BL"]
        active_B1, revises_B = memory["active_B"][:, None], memory["revises_B"]
        finished_B = revises_B & (canvas.t_B <= 0)
        settled_BL = ~_unsure(canvas, finished_B).cummax(dim=1).values
        ended_BL = (canvas.tokens_BL == self.end_id) & memory["tail_BL"] & settled_BL
        rest_BL = (ended_BL.cumsum(dim=1) > 0) & canvas.open_BL
        open_BL = canvas.open_BL & ~rest_BL
        filled_B = ~(open_BL & (block_BL == active_B1)).any(dim=1)
        done_B = torch.where(revises_B, finished_B, filled_B)
        next_B = torch.where(open_BL, block_BL, _NONE).amin(dim=1)
        memory["active_B"] = torch.where(done_B, next_B, memory["active_B"])
        memory["step_B"] = memory["step_B"] + 1
        memory["block_step_B"] = torch.where(done_B, 0, memory["block_step_B"] + 1)
        tokens_BL = torch.where(rest_BL, self.end_id, canvas.tokens_BL)
        t_B = torch.where(done_B, 1.0, canvas.t_B)
        return replace(canvas, tokens_BL=tokens_BL, open_BL=open_BL, t_B=t_B, memory=memory)

    def _report(self, seen: dict[int, Sight], new_BL: Tensor | None) -> list[Event]:
        """Events of the rows that are watched or done; those that are done leave. One transfer to the host."""
        canvas = self._canvas
        assert canvas is not None
        memory = canvas.memory
        settled_B = _settled(canvas) if seen else memory["length_B"]
        names = ("step_B", "nfe_B", "length_B", "positions_B")
        columns = (memory["active_B"] < _NONE, *(memory[name] for name in names), settled_B)
        open_B, step_B, nfe_B, length_B, positions_B, settled_B = self.forward.to_host(torch.stack(columns))
        events = []
        for i, request in enumerate(self._rows):
            if i in seen or not open_B[i]:
                tokens = None if open_B[i] else tuple(canvas.tokens_BL[i, : length_B[i]].tolist())
                sight = seen.get(i, Sight())
                new = new_BL[i].nonzero().flatten().tolist() if request.trace and new_BL is not None else ()
                events.append(
                    Event(
                        request.id,
                        step_B[i],
                        nfe_B[i],
                        tuple(sight.commits),
                        tokens,
                        tuple(new),
                        tuple(sight.drafts),
                        tuple(sight.reopened),
                        settled_B[i],
                        positions_B[i],
                    )
                )
        self._keep([i for i, still_open in enumerate(open_B) if still_open])
        return events

    def _keep(self, rows: list[int]) -> None:
        """Drop all rows but these, and the columns that no row needs any more."""
        if len(rows) < len(self._rows):
            if self.prefixes is not None and self._canvas is not None:
                self.prefixes.give(self._canvas, self._rows, sorted(set(range(len(self._rows))) - set(rows)))
            self._select(rows)

    def _select(self, rows: list[int]) -> None:
        """Go on with these rows, in that order; one that is named twice is forked."""
        self._rows = [self._rows[i] for i in rows]
        self.guided.select(rows)
        if not rows or self._canvas is None:
            self._canvas = None
            self.forward.keep(None)
            return
        rows_R = torch.tensor(rows, device=self.device)
        self.forward.keep(rows_R)
        self._canvas = narrowed(self._canvas.select(rows_R), self._longest(rows_R))

    def _longest(self, rows_R: Tensor) -> int:
        """Tokens of the longest of these rows."""
        if self.growing and self._canvas is not None:
            return int(self._canvas.memory["length_B"][rows_R].max())
        return max(len(request.tokens) for request in self._rows)


def _unsure(canvas: Canvas, finished_B: Tensor | None = None) -> Tensor:
    """bool_BL: what is open, or may still be revised; not in blocks that are finished with this step."""
    memory = canvas.memory
    revises_B = memory["revises_B"] if finished_B is None else memory["revises_B"] & ~finished_B
    return canvas.open_BL | ((memory["block_BL"] >= memory["active_B"][:, None]) & revises_B[:, None])


def _settled(canvas: Canvas) -> Tensor:
    """int64_B, the leading places of each row that will not change any more."""
    return (~_unsure(canvas).cummax(dim=1).values & (canvas.position_BL >= 0)).sum(dim=1)


@torch.inference_mode()
def _drawable_mask(denoiser: Denoiser, process: Process) -> int | None:
    """The mask, where a draw has to leave it out; None where its logit is -inf anyway, or there is no mask."""
    if not isinstance(process, Masked):
        return None
    forbidden_V = getattr(denoiser, "forbidden_V", None)
    return None if forbidden_V is not None and forbidden_V[process.mask_id].isneginf() else process.mask_id


def _table(denoiser: Denoiser, vocab_size: int) -> Tensor:
    """The embedding of every token, float32 or better."""
    table_VE = denoiser.embed(torch.arange(vocab_size))
    return table_VE.to(torch.promote_types(table_VE.dtype, torch.float32))


def _mine(part: Window, index_N: Tensor, samplers: int) -> tuple[Tensor | None, Tensor]:
    """Which of the read positions belong to this sampler; None = all."""
    if samplers == 1:
        return None, index_N
    mine_N = part.active_BL.flatten()[index_N]
    return mine_N, index_N[mine_N]
