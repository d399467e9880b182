"""What a server says of itself: its models, its numbers, and what it answers when others at its address ask."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sfumato.serve.engine import Stats
from sfumato.serve.metrics import percentiles
from sfumato.serve.service import Service


def facts(here: Service, name: str) -> dict[str, Any]:
    """A model, as `/v1/models` describes it."""
    found, about = here.model(name), here.workers.about.get(name, {})
    config = found.front.config
    told = {
        "process": config.process.kind,
        "layout": config.layout,
        "context": found.front.context,
        "block": config.model.block,
        "chat": found.front.chat_template is not None,
        "grows": found.front.grows,
        "version": found.version,
        "vocabulary": found.front.tokenizer.vocab_size,
        "sampler": found.front.plan({}).settings.sampler,
        **about,
        **({"registry": here.followers[name].facts()} if name in here.followers else {}),
    }
    return {"id": name, "object": "model", "created": here.started, "owned_by": "sfumato", "diffusion": told}


def metrics_text(here: Service) -> bytes:
    """For Prometheus."""
    workers, learned = here.workers, here.adapting.told()["models"] if here.adapting else {}
    numbers = vars(workers.stats()) | {"queued": workers.queued, "running": workers.running}
    return here.metrics.text(numbers, learned)


def counts(here: Service) -> dict[str, Any]:
    """What `summary` adds up, in plain values: whoever passes it on has never heard of networks."""
    workers, told = here.workers, here.metrics
    nothing = {"requests": 0, "tokens": 0, "nfe": 0}
    return {
        "started": here.started,
        "queued": workers.queued,
        "running": workers.running,
        "stats": {**(stats := vars(workers.stats())), "batch": dict(stats["batch"])},
        "tokens_per_second": told.tokens_per_second(),
        "seconds": told.seconds,
        "feedback": told.feedback,
        "lost": workers.lost,
        "models": {
            name: {"version": version, **told.models.get(name, nothing)} for name, version in workers.versions.items()
        },
    }


def summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all servers at an address as the page's dashboard wants them."""
    queued, running = (sum(part[key] for part in parts) for key in ("queued", "running"))
    models, feedback, stats = {}, {}, Stats()
    for part in parts:
        stats = stats + Stats(**part["stats"] | {"batch": Counter(part["stats"]["batch"])})
        for name, one in part["models"].items():
            models[name] = one | {key: one[key] + models.get(name, {}).get(key, 0) for key in one if key != "version"}
        for kind, number in part["feedback"].items():
            feedback[kind] = feedback.get(kind, 0) + number
    totals = {key: sum(one[key] for one in models.values()) for key in ("requests", "tokens", "nfe")}
    seconds = {name: [value for part in parts for value in part["seconds"][name]] for name in parts[0]["seconds"]}
    return {
        "uptime_seconds": round(time.time() - min(part["started"] for part in parts), 1),
        "queued": queued,
        "running": running,
        "requests": totals["requests"],
        "tokens": totals["tokens"],
        "tokens_per_second": round(sum(part["tokens_per_second"] for part in parts), 2),
        "nfe_per_request": round(totals["nfe"] / totals["requests"], 2) if totals["requests"] else None,
        "tpf": round(totals["tokens"] / totals["nfe"], 3) if totals["nfe"] else None,
        **{f"{name}_seconds": percentiles(values) for name, values in seconds.items()},
        "feedback": feedback,
        "engine": {**vars(stats), "batch": dict(stats.batch), "queued": queued, "running": running},
        "workers_lost": sum(part["lost"] for part in parts),
        "models": models,
    }


async def told(here: Service, question: str, *words: str) -> Any:
    """What a server answers when another one at its address asks; None = it has nothing to say.

    Raises:
        ValueError, OSError: a model cannot be read anew.
    """
    match question, words:
        case "cancel", (response_id, owner):
            return here.cancel(response_id, owner)
        case "reload", (name,):
            return await here.reload(name) if name in here.workers.fronts else None
        case "facts", ():
            return {name: facts(here, name) for name in here.workers.fronts}
        case "metrics", ():
            return metrics_text(here)
        case "counts", ():
            return counts(here)
    return None
