"""Shards done by a pool of actors of Ray Data: one a GPU where there are some, else one with its share of the cores.

What goes through Ray is which records a shard has, and what was counted. An actor reads them and writes their answers
by itself, so that nothing depends on what another one does, and what it wrote outlives it. Ray puts another actor in
the place of one that died, and gives it the shard, whose journal it goes on with.
"""

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sfumato.bulk.run import Counts, Kind, Shard, Work
from sfumato.cluster import connected
from sfumato.config import ConfigError
from sfumato.sample.journal import OtherRun

WHAT = "--replicas"


class Actor:
    """Does one shard after the other."""

    def __init__(self, kind: Kind, threads: int, folder: str):
        """Wait for the first shard.

        Args:
            kind: of the work.
            threads: to compute with on a CPU, unless OMP_NUM_THREADS says it, as it does for one process.
            folder: that relative paths begin at; an actor of a cluster would begin where that was started.
        """
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or threads))
        self._kind: Kind = kind
        self._folder = folder
        self._work: Work | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the shards of a batch; what a user can put right is told, and nothing is raised."""
        try:
            if self._work is None:
                os.chdir(self._folder)
                self._work = self._kind.load()
            done = [pickle.loads(shard).do(self._work, self._kind) for shard in batch["shard"]]
            return {"done": [pickle.dumps(one) for one in done]}
        except OtherRun as error:
            return {"done": [pickle.dumps(error)]}
        except (ValueError, OSError) as error:
            return {"done": [pickle.dumps(ConfigError(str(error) or type(error).__name__))]}


def on_ray(todo: Sequence[Shard], kind: Kind, *, replicas: int, address: str = "") -> Iterator[Counts]:
    """Do shards.

    Args:
        todo: the shards.
        kind: of the work.
        replicas: actors.
        address: of a cluster, as in `cluster.connected`.

    Yields:
        What was counted in each, in the order in which they are done.

    Raises:
        ValueError: the first error of an actor, or no cluster that could do it.
    """
    with connected(WHAT, address) as ray:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = False
        resources, threads = _resources([node["Resources"] for node in ray.nodes() if node["Alive"]], replicas)
        found = ray.data.from_items([{"shard": pickle.dumps(one)} for one in todo], override_num_blocks=len(todo))
        pool = ray.data.ActorPoolStrategy(size=min(replicas, len(todo)), max_tasks_in_flight_per_actor=1)
        done = found.map_batches(
            Actor, batch_size=1, compute=pool, fn_constructor_args=(kind, threads, os.getcwd()), **resources
        )
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            for one in map(pickle.loads, batch["done"]):
                if isinstance(one, ValueError):
                    raise one
                yield one


def _resources(nodes: Sequence[Mapping[str, float]], replicas: int) -> tuple[dict[str, Any], int]:
    """What each actor takes of a cluster with these machines, and its threads."""
    gpus, cores = sum(node.get("GPU", 0) for node in nodes), sum(node.get("CPU", 0) for node in nodes)
    if gpus:
        if gpus < replicas:
            raise ConfigError(f"{WHAT}: got {replicas}, but there are {gpus:.0f} GPUs, and each takes one")
        return {"num_gpus": 1, "num_cpus": min(1.0, cores / replicas)}, max(1, int(cores // replicas))
    if cores < replicas:  # more of them than cores: they share
        return {"num_cpus": int(cores / replicas * 1000) / 1000}, 1
    share = int(min(cores // replicas, max(node.get("CPU", 0) for node in nodes)))
    return {"num_cpus": share}, share
