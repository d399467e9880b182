"""One optimiser step.

Every random number is a function of (seed, step, global row), so a resumed run sees the noise it would have seen.

Shape letters: B rows, L row length, N scored positions, D width, V vocabulary.
"""

import contextlib
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sfumato import rng
from sfumato.canvas import Where
from sfumato.config import Recipe
from sfumato.data.batches import Batch, Stream
from sfumato.data.streaming import ShardedStream
from sfumato.model.bundle import BundleConfig, Network
from sfumato.model.device import bookkeeping_device
from sfumato.model.layout import Block, Layout, layout_named, numbered, two_streams
from sfumato.process import Gaussian, Growing, Noised, Process, build_process, scorable
from sfumato.train.flops import Speed
from sfumato.train.parallel import Copied
from sfumato.train.run import device_of
from sfumato.train.state import State
from sfumato.train.update import Update

_CORRUPT, _DROP, _SIZE, _TWICE, _PROMPT = 7, 8, 9, 10, 11  # draw purposes, apart from those inside a process


class Step:
    """One optimiser step: forward and backward over the micro-batches, then `Update`."""

    def __init__(self, recipe: Recipe, config: BundleConfig, state: State, steps: int):
        """Everything that stays the same from step to step."""
        assert isinstance(state.stream, (Stream, ShardedStream))
        self.recipe, self.state, self.stream = recipe, state, state.stream
        self.update = Update(recipe, state, steps)
        self.process: Process = build_process(
            recipe.process,
            vocab_size=config.model.vocab_size,
            mask_id=config.tokens.mask,
            never_written=config.tokens.never_written,
            shift=config.shift,
        )
        self.growing = self.process if isinstance(self.process, Growing) else None
        model = config.model
        self.layout: Layout = layout_named(config.layout, model.block, model.smallest_block)
        self.seen: Layout = self.layout  # what the network sees in this step; less while it learns to look ahead
        self.device, self.dtype = device_of(recipe)
        self.rows, self.passes = state.processes.rows(recipe.train)
        length = recipe.model.context
        self.groups = length // (model.smallest_block or model.block) if model.block else 1  # noise levels a row
        self.capacity: int | None = self.process.capacity(self.rows, length, self.groups)
        self.speed = Speed(recipe, config, self.process, state.processes.count)
        self.forward = self._forward
        if recipe.train.compile and state.processes.mesh is None:  # else its layers are, one by one
            self.forward = torch.compile(self._forward, dynamic=False)
        if state.processes.copied:
            self.forward = Copied(self.forward, state.denoiser)
        if state.processes.mesh is not None:
            self.forward = self._gathered

    def __call__(self) -> dict[str, Any]:
        """Make one step and return its record for metrics.jsonl."""
        config, processes, start = self.recipe.train, self.state.processes, time.perf_counter()
        rows = config.batch * config.accumulate
        batch = self.stream.rows(rows, processes.rank, processes.count)
        scale = 1.0 / max(1, int(processes.total(batch.editable_BL.sum())))
        loss = torch.zeros((), device=self.device)
        for i in range(self.passes):
            # Neighbours have similar noise levels: a run of them could be all noise and not fit the capacity.
            mine_B = torch.arange(i, len(batch.tokens_BL), self.passes)
            with self._later() if i + 1 < self.passes else contextlib.nullcontext():
                part = self._loss(batch.select(mine_B), mine_B * processes.count + processes.rank) * scale
                (part * processes.count).backward()  # since gradients are averaged over the processes
            loss += part.detach()
        record = self.update(loss, rows * self.recipe.model.context, start)
        return record | self.speed.of(record["tokens_per_second"])

    def _later(self) -> contextlib.AbstractContextManager[None]:
        """While gradients are only added up in each process, if there are several with all weights."""
        return self.forward.later() if isinstance(self.forward, Copied) else contextlib.nullcontext()

    def _loss(self, batch: Batch, rows_B: Tensor) -> Tensor:
        """Summed loss of one micro-batch: rows, which are these ones of the global batch."""
        noised, where = self._noised(batch, rows_B, self._times(rows_B))
        read_N = noised.read_N(where, self.process.shift)
        self._seed_dropout(rows_B)
        noised = self._conditioned(noised, where, read_N)
        logits_NV, log_rate_BL = self._predicted(noised, where, read_N)
        loss = self.process.loss(logits_NV, noised).sum()
        if self.growing is not None and log_rate_BL is not None:
            loss = loss + self.growing.gap_loss(log_rate_BL, noised).sum()
        return loss

    def _times(self, rows_B: Tensor) -> Tensor:
        """The noise levels t_BG of this step."""
        batch = self.recipe.train.batch * self.recipe.train.accumulate
        return self.process.times(self.recipe.seed, self.state.step, rows_B, batch, self.groups)

    def _noised(self, batch: Batch, rows_B: Tensor, t_BG: Tensor) -> tuple[Noised, Where]:
        """These rows at these levels, and who their places are, on the network's device."""
        noise_device = bookkeeping_device(self.device)
        position_BL, document_BL = batch.position_BL, batch.document_BL
        editable_BL = scorable(self.process, batch.editable_BL, position_BL)
        block_BL, group_BL = self._blocks(position_BL, rows_B)
        noised = self.process.corrupt(
            batch.tokens_BL.to(noise_device, non_blocking=True),
            (t_BG if group_BL is None else t_BG.gather(1, group_BL % self.groups)).to(noise_device),
            editable_BL=self._unprompted(editable_BL, rows_B).to(noise_device, non_blocking=True),
            seeds_B=rng.mix(rows_B, self.recipe.seed, self.state.step, _CORRUPT).to(noise_device),
            block_BL=None if group_BL is None else group_BL.to(noise_device),
            capacity=self.capacity,
            embed=self.state.denoiser.embed,
        )
        where = noised.where(Where(position_BL, document_BL, block_BL).to(noise_device))
        return noised.to(self.device), where.to(self.device)

    def _seed_dropout(self, rows_B: Tensor) -> None:
        """Dropout from the counters, as all noise."""
        if self.recipe.train.dropout or self.recipe.lora.dropout:
            torch.manual_seed(int(rng.mix(rows_B[:1], self.recipe.seed, self.state.step, _DROP)))

    def _unprompted(self, editable_BL: Tensor, rows_B: Tensor) -> Tensor:
        """What is noised: all that is editable, or in a share of the rows only what follows a random place."""
        share, length = self.recipe.train.prompts, editable_BL.shape[1]
        if not share:
            return editable_BL
        u_B = rng.uniform(rows_B, self.recipe.seed, self.state.step, _PROMPT)
        begin_B = torch.where(u_B < share, u_B / share * length, 0.0).floor()
        return editable_BL & (torch.arange(length) >= begin_B[:, None])

    def _conditioned(self, noised: Noised, where: Where, read_N: Tensor) -> Noised:
        """Inputs with a previous prediction for a self-conditioned network: its own in half of the steps, else zeros.

        Source: Chen et al. 2022 (Analog Bits, 2208.04202, section 3.1).
        """
        if not (isinstance(self.process, Gaussian) and self.state.denoiser.config.self_conditioning):
            return noised
        latents_BLE = noised.inputs_BL
        noised = replace(noised, inputs_BL=torch.cat((latents_BLE, torch.zeros_like(latents_BLE)), dim=-1))
        if rng.uniform(self.recipe.seed, self.state.step, _TWICE) < 0.5:
            return noised
        with torch.no_grad():
            predicted_BLE = self.process.predicted(self._predicted(noised, where, read_N)[0], noised)
        return replace(noised, inputs_BL=torch.cat((latents_BLE, predicted_BLE), dim=-1))

    def _blocks(self, position_BL: Tensor, rows_B: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """The block of each place in its document, and its noise group in the row; None without blocks."""
        if not isinstance(self.layout, Block):
            return None, None
        sizes = [self.layout.size]
        while self.layout.smallest and sizes[-1] // 2 >= self.layout.smallest:
            sizes.append(sizes[-1] // 2)
        u_B1 = rng.uniform(rows_B, self.recipe.seed, self.state.step, _SIZE)[:, None]
        return numbered(position_BL, torch.tensor(sizes)[(u_B1 * len(sizes)).long()])

    def _predicted(
        self, noised: Noised, where: Where, read_N: Tensor, denoiser: Network | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What the network, or another one, says in the precision of training; see `_forward`."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.forward(
                denoiser or self.state.denoiser,
                noised.inputs_BL,
                noised.clean_inputs_BL,
                where,
                noised.t_BL,
                read_N,
                noised.index_N,
            )

    def _gathered(self, denoiser: Network, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        """As `_forward`, of a network whose weights are shared."""
        return denoiser.all_at_once(self._forward, *inputs)  # pyrefly: ignore[not-callable]

    def _forward(
        self,
        denoiser: Network,
        inputs_BL: Tensor,
        clean_BL: Tensor,
        where: Where,
        t_BL: Tensor,
        read_N: Tensor,
        index_N: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """logits_NV at the positions to read, where alone they are made; and log_rate_BL where rows grow."""
        if self.growing is not None:  # its gaps are everywhere
            hidden_BLD = denoiser.encode(inputs_BL, where=where, layout=self.seen, t_BQ=t_BL)
            logits_NV = denoiser.readout(hidden_BLD.flatten(0, 1)[read_N])
            return logits_NV, denoiser.readout(hidden_BLD, head="gap")
        if self.layout.two_streams:
            if inputs_BL.ndim == 3:  # clean text has no previous prediction
                clean_BL = pad(clean_BL, (0, inputs_BL.shape[-1] - clean_BL.shape[-1]))
            inputs_BL, where, t_BL, read_N = two_streams(inputs_BL, clean_BL, where, t_BL, read_N, index_N)
        hidden_ND = denoiser.encode(inputs_BL, where=where, layout=self.seen, t_BQ=t_BL, read_N=read_N)
        return denoiser.readout(hidden_ND), None
