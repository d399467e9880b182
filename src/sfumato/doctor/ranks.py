"""Processes that talk to each other: who is there, how fast all of them sum a tensor, who is slow.

A check of this module runs once in each process of the world, with the variables of torchrun in its environment; the
one of rank 0 tells what was found. The bandwidth is that of a bus: an all-reduce of s bytes among w processes in T
seconds moves 2 (w - 1) / w * s bytes through each of them (NVIDIA, nccl-tests, doc/PERFORMANCE.md).
"""

import json
import os
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from sfumato.doctor.finding import MIB, Finding, flops, judged, rate
from sfumato.train.devices import measured_flops

_ROUNDS = 5
_SLOW = 0.5  # of the median: a rank below that is named


def among(what: str, backend: str = "", patience: float = 60.0, size: int = 16 * MIB) -> Iterator[Finding]:
    """Sum a tensor over all ranks.

    Args:
        what: the name of the findings.
        backend: gloo or nccl; empty takes nccl where each rank of a host has a GPU.
        patience: seconds to wait for ranks.
        size: bytes of the tensor.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", rank))
    backend = backend or ("nccl" if dist.is_nccl_available() and torch.cuda.device_count() > local else "gloo")
    store = _store(rank, patience)
    store.set(f"here/{rank}", socket.gethostname())
    if rank == 0:
        missing = _missing(store, world, "here", patience)
        store.set("missing", json.dumps(missing))
    else:
        store.wait(["missing"], timedelta(seconds=patience + 10))
        missing = json.loads(store.get("missing"))
    if missing:
        if rank == 0:
            advice = "start that many processes; see that they reach {MASTER_ADDR}:{MASTER_PORT} (firewall, DNS)"
            said = f"{world - len(missing)} of {world} ranks are here, missing: {_listed(missing)}"
            yield Finding(what, said, "fail", advice.format(**os.environ))
        return
    try:
        measured = _measure(store, rank, world, backend, patience, size)
    except RuntimeError:
        if rank == 0 and (left := _missing(store, world, "measured", 1.0)):
            yield Finding(what, f"lost on the way: {_listed(left)}", "fail", "look at the output of these ranks")
            return
        raise
    if rank == 0:
        yield from _told(what, backend, measured)


def _store(rank: int, patience: float) -> dist.Store:
    """Where ranks leave notes for each other; torchrun holds one already, else rank 0 does."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    wait = timedelta(seconds=patience)
    try:
        store = dist.TCPStore(host, port, is_master=hosts, timeout=wait, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:  # DistNetworkError and DistStoreError among them
        raise ConnectionError(f"rank {rank} on {socket.gethostname()} cannot reach {host}:{port} ({error})") from None
    return dist.PrefixStore("doctor", store)


def _missing(store: dist.Store, world: int, what: str, patience: float) -> list[int]:
    """Ranks that have not left the note within the time."""
    end, missing = time.monotonic() + patience, list(range(world))
    while missing and time.monotonic() < end:
        missing = [rank for rank in missing if not store.check([f"{what}/{rank}"])]
        time.sleep(0.02)
    return missing


def _measure(
    store: dist.Store, rank: int, world: int, backend: str, patience: float, size: int
) -> dict[int, dict[str, Any]]:
    """What each rank measured, on rank 0; it is the last to leave, since it may hold the store."""
    cuda = backend == "nccl"
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    speed = measured_flops(device, torch.float32, 4096 if cuda else 512)
    own: dict[str, Any] = {"host": socket.gethostname(), "flops": speed}
    group, wait = dist.PrefixStore("group", store), timedelta(seconds=patience)
    dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=wait)
    try:
        own["latency"] = _all_reduce(torch.ones(1, device=device), 20)
        own["all_reduce"] = _bus(size, world) / _all_reduce(torch.ones(size // 4, device=device), _ROUNDS)
        own["to_zero"] = _to_zero(rank, world, device)
        store.set(f"measured/{rank}", json.dumps(own))
        if rank:
            with suppress(RuntimeError):  # rank 0 may have gone already, and the store with it
                store.wait(["done"], wait)
            return {}
        found = {}
        for other in range(world):
            store.wait([f"measured/{other}"], wait)
            found[other] = json.loads(store.get(f"measured/{other}"))
        store.set("done", "1")
        return found
    finally:
        dist.destroy_process_group()


def _bus(size: int, world: int) -> float:
    """Bytes that an all-reduce moves through each process."""
    return 2 * (world - 1) / world * size


def _all_reduce(tensor: torch.Tensor, rounds: int) -> float:
    """Seconds of one, the median."""
    times = []
    dist.all_reduce(tensor)
    for _ in range(rounds):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(tensor)
        float(tensor[0])  # waits for a GPU
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _to_zero(rank: int, world: int, device: torch.device, size: int = 4 * MIB) -> float | None:
    """Bytes a second from this rank to rank 0 alone, one rank after the other."""
    piece, own = torch.ones(size // 4, device=device), None
    for other in range(1, world):
        for turn in range(2):  # the first one connects
            begin = time.perf_counter()
            if rank == other:
                dist.send(piece, 0)
                dist.recv(piece[:1], 0)
                own = size / (time.perf_counter() - begin) if turn else None
            elif rank == 0:
                dist.recv(piece, other)
                dist.send(piece[:1], other)
    return own


def _told(what: str, backend: str, measured: Mapping[int, dict[str, Any]]) -> Iterator[Finding]:
    slowest = min(measured.values(), key=lambda one: one["all_reduce"])
    latency, speed = max(one["latency"] for one in measured.values()), slowest["all_reduce"]
    hosts = len({one["host"] for one in measured.values()})
    said = f"all-reduce {rate(speed)}, latency {1e6 * latency:.0f} us, {len(measured)} ranks"
    said += f" on {hosts} hosts, {backend}" if hosts > 1 else f", {backend}"
    figures = {"bytes_per_second": speed, "latency": latency, "ranks": len(measured), "hosts": hosts}
    advice = "sharded training waits for this: see NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME for the right network"
    yield judged(speed > (1e9 if backend == "nccl" else 5e7), what, said, advice, **figures)
    if hosts > 1 or backend == "nccl":  # processes that share a CPU take turns
        yield from slow_ranks(what, measured)


def slow_ranks(what: str, measured: Mapping[int, dict[str, Any]]) -> Iterator[Finding]:
    """Ranks that are far behind the others, in arithmetic or on the way to rank 0: all others wait for them."""
    for name, title, shown in (("flops", "computes", flops), ("to_zero", "link to rank 0", rate)):
        found = {rank: one[name] for rank, one in measured.items() if one[name] is not None}
        if len(found) < 2:
            continue
        median = statistics.median_high(found.values())
        slow = {rank: value for rank, value in found.items() if value < _SLOW * median}
        for rank, value in slow.items():
            said = f"rank {rank} on {measured[rank]['host']}: {title} {shown(value)}, the others {shown(median)}"
            advice = "every step waits for it: see what else runs there, or leave that host out"
            yield Finding(what, said, "warn", advice, {"rank": rank, name: value, "median": median})


def _listed(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:16]))
    return f"rank{'s' * (len(ranks) > 1)} {shown}{' ...' if len(ranks) > 16 else ''}"
