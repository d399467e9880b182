"""`sfumato serve --replicas`, and the same as an application that a Ray cluster runs by itself."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.serve import Options, check_installed, chosen_behaviour, chosen_models
from sfumato.cluster import need_ray
from sfumato.config import ConfigError, from_mapping

if TYPE_CHECKING:
    from ray.serve import Application

    from sfumato.serve.replicas.plan import Plan

CLUSTER = {"replicas": "1", "host": "0.0.0.0", "feedback_url": "none"}
"""What `app` is told less often than a command on one machine."""


def run_replicas(options: Options, out: TextIO) -> None:
    """Serve until told to stop."""
    address = options.ray_address or os.environ.get("RAY_ADDRESS", "")
    plan = _plan(options, machines=bool(address))
    need_ray("--replicas")
    from sfumato.serve.replicas import launch

    launch.run(plan, options.host, options.port, address, out)


def app(args: Mapping[str, Any]) -> "Application":
    """What a Ray cluster runs: `import_path: sfumato.cli.replicas:app` in the configuration of Ray Serve.

    Args:
        args: the flags of `sfumato serve` with underscores, as text or as what they are. Host and port are the
            configuration's; feedback is kept where `feedback_url` or `$SFUMATO_FEEDBACK` names a PostgreSQL.

    Raises:
        ValueError: one line.
    """
    feedback = {"feedback_url": os.environ["SFUMATO_FEEDBACK"]} if os.environ.get("SFUMATO_FEEDBACK") else {}
    options = from_mapping(Options, {**CLUSTER, **feedback, **args}, "args")
    check_installed()
    from sfumato.serve.replicas.application import application

    return application(_plan(options, machines=True))


def _plan(options: Options, *, machines: bool) -> "Plan":
    """The flags as a plan.

    Args:
        options: the flags.
        machines: the replicas may be on several of them.

    Raises:
        ValueError: flags that cannot be used, together or at all.
    """
    from dataclasses import replace

    from sfumato.serve.replicas.plan import Plan, groups
    from sfumato.serve.worker import WorkerConfig

    if options.adapt or options.presets or options.adapt_file:
        raise ConfigError("--adapt: one server learns by itself; leave out --adapt or --replicas")
    models, followers = chosen_models(options)
    found = groups(options.replicas, tuple(models))
    most = sum(group.scale.most for group in found)
    cpus = options.replica_cpus or (1.0 if machines else max(1.0, float((os.cpu_count() or 1) // most)))
    worker = WorkerConfig(
        models=models,
        threads=options.threads or max(1, int(cpus) // options.workers),
        rows=options.rows,
        batch_invariant=options.batch_invariant,
        device=options.device,
        dtype=options.dtype,
    )
    return Plan(
        groups=found,
        worker=worker,
        options=replace(chosen_behaviour(options), models=tuple(models)),
        queue=options.queue,
        workers=options.workers,
        registries={follower.name: str(follower.registry.folder) for follower in followers},
        feedback_url=_feedback(options.feedback_url, machines=machines),
        cpus=cpus,
        gpus=options.replica_gpus,
        gateways=2 if machines else 1,
    )


def _feedback(url: str, *, machines: bool) -> str:
    """Where feedback goes, as every replica finds it; empty = nowhere.

    Raises:
        ValueError: it is a file, and the replicas may be on several machines.
        OSError: it cannot be opened.
    """
    if url == "none":
        return ""
    from sfumato.store.feedback import FeedbackStore
    from sfumato.store.urls import default_url, parse_url

    url = url or default_url()
    place = parse_url(url)
    if place.drivername != "sqlite":
        return url
    if machines:
        raise ConfigError("--feedback-url: a file is on one machine; expected postgresql://USER@HOST/DATABASE, or none")
    FeedbackStore(url).close()
    return os.path.abspath(str(place.database))
