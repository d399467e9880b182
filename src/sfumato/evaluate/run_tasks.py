"""Tasks of lm-eval, its own or those of a local folder, on a model of this package, and a report to believe in.

A figure without the estimator, the samples, the seeds and the cost behind it cannot be reproduced: so they stand in it.
"""

import io
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sfumato.config import ConfigError, closest
from sfumato.evaluate.harness import MAX_TOKENS, Harness
from sfumato.evaluate.machine import this_machine

BOOTSTRAP = 1000  # resamplings for the standard error of metrics that have no formula for it


def run_tasks(
    harness: Harness,
    names: Sequence[str],
    *,
    include_path: str | Path | None = None,
    limit: int | float | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    system: str | None = None,
    fewshot_seed: int = 1234,
) -> dict[str, Any]:
    """Run tasks, and say all that is needed to get the same figures again.

    Args:
        harness: the model.
        names: of tasks, groups or tags, or the paths of task files.
        include_path: folder with task files, which come before lm-eval's own.
        limit: on the first so many documents of each task; below 1 a share of them.
        num_fewshot: examples in a prompt; None = as each task says.
        chat: prompts are conversations, rendered by the model's template.
        system: what the system says in them.
        fewshot_seed: of the choice of examples; lm-eval's own by default.

    Returns:
        The report, in plain values.

    Raises:
        ConfigError: an unknown task, or one that lm-eval cannot run or load.
    """
    start = time.perf_counter()
    with _quiet():
        loaded = _load(names, include_path)
        for task in loaded["tasks"].values():
            _examples(task, num_fewshot, fewshot_seed)
        from lm_eval.evaluator import evaluate

        try:
            found = evaluate(
                harness,
                task_dict=loaded,
                limit=limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
                system_instruction=system,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        finally:
            harness.answers.close()
    asked = {"limit": limit, "num_fewshot": num_fewshot, "chat": chat, "system": system, "fewshot_seed": fewshot_seed}
    return _plain(_report(harness, dict(found or {}), asked, time.perf_counter() - start))


def _load(names: Sequence[str], include_path: str | Path | None) -> Any:
    """The tasks; lm-eval's own thousands of files are looked through only where the folder does not have them all."""
    from lm_eval.tasks import TaskManager

    if include_path and not Path(include_path).is_dir():
        raise ConfigError(f"{include_path}: no such folder; expected one with task files (.yaml)")
    manager = None
    if include_path or all(Path(name).is_file() for name in names):
        manager = TaskManager(include_path=include_path, include_defaults=False)
    known = set(manager.all_tasks) if manager else set[str]()
    if manager is None or any(name not in known and not Path(name).is_file() for name in names):
        manager = TaskManager(include_path=include_path)
        known = set(manager.all_tasks)
    for name in names:
        if name not in known and not Path(name).is_file():
            hint = closest(name, known)
            where = f" or in {include_path}" if include_path else "; --include-path names a folder of your own"
            raise ConfigError(f"unknown task {name!r}; {f'did you mean {hint}?' if hint else f'not in lm-eval{where}'}")
    try:
        return manager.load(list(names))
    except Exception as error:  # data sets, metrics and templates fail in dozens of ways
        raise ConfigError(f"{', '.join(names)}: lm-eval cannot load this: {_one_line(error)}") from error


def _examples(task: Any, num_fewshot: int | None, seed: int) -> None:
    """So many examples in each prompt, except for a task that will have none."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=seed)


def _report(harness: Harness, found: dict[str, Any], asked: dict[str, Any], seconds: float) -> dict[str, Any]:
    model, answers = harness.model, harness.answers
    settings = {name: value for name, value in asdict(answers.plan.settings).items() if name != "seed"}
    likelihoods = any(kind.startswith("loglikelihood") for kind in answers.costs)
    nfe, requests = (sum(getattr(cost, name) for cost in answers.costs.values()) for name in ("nfe", "requests"))
    return {
        "model": str(model.path or ""),
        "weights_sha256": answers.weights,
        "process": model.process.name,
        "layout": model.layout.name,
        "results": found.get("results", {}),
        **({"groups": found["groups"]} if found.get("groups") else {}),
        "tasks": {
            "versions": found.get("versions", {}),
            "num_fewshot": found.get("n-shot", {}),
            "documents": found.get("n-samples", {}),
            "higher_is_better": found.get("higher_is_better", {}),
            "asked": asked,
        },
        "likelihood": _likelihood(harness) if likelihoods else None,
        "decoder": {
            "settings": settings,
            "chosen": harness.chosen,
            "max_tokens": harness.max_tokens or f"the task's, or {MAX_TOKENS}",
            "temperature": "chosen" if "temperature" in harness.chosen else "the task's, or 0",
        },
        "seed": answers.how.seed,
        "batch": answers.how.batch,
        "nfe": {"total": nfe, "per_request": nfe / max(1, requests)},
        "cost": {
            kind: {**asdict(cost), "nfe_per_request": cost.nfe / max(1, cost.requests)}
            for kind, cost in answers.costs.items()
        },
        "shortened_prompts": harness.prompts.shortened,
        "ignored": sorted(harness.ignored),
        "seconds": round(seconds, 3),
        "machine": asdict(this_machine(model.device, model.dtype)),
        "versions": {name: version(name) for name in ("sfumato", "lm_eval", "datasets")},
    }


def _likelihood(harness: Harness) -> dict[str, Any]:
    answers = harness.answers
    exact = answers.estimator in ("exact", "chain")
    return {
        "estimator": answers.estimator,
        "estimates": dict(answers.ways),
        "asked": answers.how.estimator,
        "kind": "exact" if exact else "bound",
        "samples": 1 if exact else answers.how.samples,
        "common_random_numbers": "the answers to one document share their noise",
        "mean_stderr": sum(answers.stderrs) / max(1, len(answers.stderrs)),
        "greedy": answers.how.greedy,
    }


def _plain(value: Any) -> Any:
    """Without NumPy's numbers, for JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if hasattr(value, "item") else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's and its helpers' chatter, bars and warnings; what is wrong is raised, and said by us."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # its standard errors would fork a process that has threads
    import datasets
    from lm_eval.api import task

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "evaluate", "huggingface_hub")]
    levels, drawn = [logger.level for logger in loggers], datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    bar = task.tqdm
    setattr(task, "tqdm", partial(bar, disable=True))  # noqa: B010
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        task.tqdm = bar
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if drawn:
            datasets.enable_progress_bars()


def _one_line(error: BaseException) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:300]
