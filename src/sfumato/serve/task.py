"""A request made ready: rows for the decoder, a view of each, and how they were asked for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfumato.sample.front import Front, Plan
from sfumato.sample.rows import Request
from sfumato.serve.adapting import Choice
from sfumato.serve.constraints import Wanted
from sfumato.serve.errors import BadRequest
from sfumato.serve.schemas import Settings
from sfumato.serve.service import Model, new_id, new_seed
from sfumato.serve.streams import RowView
from sfumato.store.records import Response
from sfumato.text.prompt import Row

_SETTINGS = (
    *("temperature", "top_p", "top_k", "steps", "sampler", "threshold", "factor", "entropy_bound", "remask", "eta"),
    *("kappa", "corrections", "sites", "edit_threshold", "edit_steps", "patience", "clamp"),
)
_CHOSEN = (*_SETTINGS, "block_length", "reasoning_effort", "seed")  # who sets one of these wants no other settings
MOST_STEPS, MOST_STEPS_A_TOKEN = 1000, 16
_PREFIX = {"chat": "chatcmpl", "completion": "cmpl", "fim": "cmpl", "edit": "edit", "denoise": "dns"}
_EFFORT: dict[str, Callable[[int], int]] = {
    "none": lambda room: room // 8,
    "minimal": lambda room: room // 8,
    "instant": lambda room: room // 8,
    "low": lambda room: room // 4,
    "high": lambda room: room,
}


@dataclass(frozen=True)
class Asked:
    """One text that is asked for, laid out."""

    row: Row
    seed: int
    tail: int = 0
    """Given tokens at the end that are no part of the completion."""


@dataclass
class Task:
    """Rows to write for one response."""

    id: str
    kind: str
    """chat, completion, fim, edit or denoise."""
    model: Model
    plan: Plan
    rows: tuple[Request, ...]
    views: list[RowView]
    seed: int
    owner: str
    prompts: Sequence[Any]
    """What was asked, for feedback."""
    n: int = 1
    """Texts for each prompt."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else `diffusion` tells."""
    created: int = field(default_factory=lambda: int(time.time()))

    def diffusion(self) -> dict[str, Any]:
        """How it is written: what makes it reproducible."""
        chosen = {name: getattr(self.plan.settings, name) for name in _SETTINGS}
        settings = chosen | {"block_length": self.plan.block, "steps": self.rows[0].steps}
        return {"seed": self.seed, "sampler": self.plan.settings.sampler, "settings": settings, **self.extra}

    def answer(self, object_: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What OpenAI's clients get when all is written."""
        return {
            "id": self.id,
            "object": object_,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self.model.version,
            "choices": choices,
            "usage": self.usage(),
            "diffusion": self.diffusion(),
        }

    def texts(self) -> tuple[Response, ...]:
        """What was written, as feedback is kept about it. Of several texts each has an id of its own."""
        settings, usage, several = self.diffusion()["settings"], self.usage(), len(self.views) > 1
        return tuple(
            Response(
                id=f"{self.id}:{index}" if several else self.id,
                kind=self.kind,
                model=self.model.name,
                model_version=self.model.version,
                seed=row.seed,
                settings=settings,
                prompt=self.prompts[index // self.n],
                completion=view.text,
                tokens=view.tokens(),
                usage=usage,
            )
            for index, (row, view) in enumerate(zip(self.rows, self.views, strict=True))
        )

    def usage(self) -> dict[str, Any]:
        """What it cost so far."""
        given = sum(view.prompt_tokens for view in self.views[:: self.n])
        written = sum(view.completion_tokens for view in self.views)
        nfe = sum(view.nfe for view in self.views)
        positions = sum(view.positions for view in self.views)
        return {
            "prompt_tokens": given,
            "completion_tokens": written,
            "total_tokens": given + written,
            "diffusion": {
                "nfe": nfe,
                "tpf": round(written / nfe, 3) if nfe else 0.0,
                "positions_evaluated": positions,
                "steps": max(view.step for view in self.views),
            },
        }


def new_task(
    kind: str,
    model: Model,
    body: Settings,
    asked: Sequence[Asked],
    *,
    owner: str,
    prompts: Sequence[Any],
    n: int = 1,
    stops: Sequence[str] = (),
    watched: bool = False,
    drafts: bool = False,
    in_sight: bool = False,
    wanted: Wanted | None = None,
) -> Task:
    """Rows and views of a request. Runs beside the event loop.

    Args:
        kind: chat, completion, fim, edit or denoise.
        model: which one.
        body: the settings that were chosen.
        asked: the texts.
        owner: who asks.
        prompts: what was asked, for feedback.
        n: texts for each prompt.
        stops: texts that end a completion.
        watched: events of every step are wanted, not only the last one.
        drafts: guesses for open places as well.
        in_sight: text on the right matters.
        wanted: what the text must satisfy.

    Raises:
        ValueError: settings that make no sense, for this model or at all.
    """
    front, choice = model.front, _adapted(kind, model, body, wanted)
    options = {name: value for name in _SETTINGS if (value := getattr(body, name)) is not None}
    if body.block_length is not None:
        options["block"] = body.block_length
    if choice:
        options = choice.preset.settings
    constraint = wanted.build(front.tokenizer) if wanted else None
    plan = front.plan(options, in_sight=in_sight)
    rows, views = [], []
    for one in asked:
        row = plan.request(
            one.row.tokens,
            one.row.editable,
            steps=_steps(front, plan, body, one.row, choice.preset.steps(one.row.room) if choice else None),
            seed=one.seed,
            trace=watched or drafts or bool(stops),
            drafts=drafts,
            gaps=one.row.gaps,
            limit=one.row.limit,
            constraint=constraint,
        )
        rows.append(row)
        blocks = row.blocks(front.layout)
        view = RowView(one.row, front.tokenizer, blocks=blocks, tail=one.tail, stops=stops, constraint=constraint)
        views.append(view)
    task = Task(new_id(_PREFIX[kind]), kind, model, plan, tuple(rows), views, asked[0].seed, owner, prompts, n)
    if choice and model.adapting:
        task.extra["controller"] = choice.told
        model.adapting.begin(task.id, model.name, choice)
    return task


def _adapted(kind: str, model: Model, body: Settings, wanted: Wanted | None) -> Choice | None:
    """Settings for a request that chooses none; None where it does, or nobody is to choose for it."""
    if model.adapting is None or any(getattr(body, name) is not None for name in _CHOSEN):
        return None
    return model.adapting.choose(model.name, model.front, model.version, kind, structured=wanted is not None)


def seeds(body: Settings, n: int) -> list[int]:
    """Of n texts: seed, seed + 1, ...; after the largest comes 0."""
    first = new_seed() if body.seed is None else body.seed
    return [(first + i) % 2**63 for i in range(n)]


def _steps(front: Front, plan: Plan, body: Settings, row: Row, preset: int | None) -> int:
    """Forward passes for a row: as chosen, as a preset or the effort says, or what suits the sampler.

    One a block at least.

    Raises:
        BadRequest: so many that the row would keep its place from others for hours.
    """
    if body.steps and body.steps > (most := max(MOST_STEPS, MOST_STEPS_A_TOKEN * row.room)):
        raise BadRequest(f"steps: expected at most {most} for {row.room} tokens, got {body.steps}", "steps")
    if preset is None and (body.steps or body.reasoning_effort in (None, "medium")):
        return plan.steps(row.room)
    if front.process.name == "autoregressive":
        return row.room
    blocks = -(-row.room // plan.block) + 1 if plan.block else 1
    return max(1, blocks, preset or _EFFORT[body.reasoning_effort or "high"](row.room))
