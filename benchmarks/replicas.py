"""Replicas behind one address against one server, and what happens to requests when a replica is killed under load.

Every answer is compared with that of the plain server, so the speed is that of the same texts. Exit code 1: an answer
was lost without a clear error, is another text, or the killed replica was not replaced.

    python benchmarks/replicas.py --clients 8 --requests 96
"""

import argparse
import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import bench
import httpx
from serve_load import ask, question, summary
from serving import by_clients, quantile, server

SECONDS = 90  # longest wait for a replica in the place of the killed one
WINDOW = 2.0  # seconds over which the rate around the loss is taken


async def measured(address: str, args: argparse.Namespace, expected: dict[int, str]) -> dict[str, Any]:
    """One run of all requests, and of one small request after the other, whose latency is mostly the way there."""
    run = await by_clients(address, range(args.requests), args.clients, lambda http, n: ask(http, question(n, args)))
    expected |= {} if expected else {n: found["text"] for n, found in run["answers"].items()}
    small = argparse.Namespace(**vars(args) | {"max_tokens": 1})
    async with httpx.AsyncClient(base_url=address, timeout=300) as http:
        alone = [await ask(http, question(n, small)) for n in range(40)]
        looks = [await _look(http) for _ in range(40)]
    seconds = {"one token": sorted(a["seconds"] for a in alone[5:]), "/health": sorted(looks[5:])}
    return summary(run, expected) | {name: round(1000 * quantile(some, 50), 1) for name, some in seconds.items()}


async def _look(http: httpx.AsyncClient) -> float:
    start = time.perf_counter()
    await http.get("/health")
    return time.perf_counter() - start


async def killed(address: str, args: argparse.Namespace) -> dict[str, Any]:
    """Clients that ask without a pause, half of them for streams; one replica is killed meanwhile."""
    ends: list[tuple[float, str]] = []  # when, and what came of it
    stop, before = asyncio.Event(), replicas()

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=300) as http:
            while not stop.is_set():
                number += args.clients
                body = question(number, args)
                came = await (_streamed(http, body) if number % 2 else _answered(http, body))
                ends.append((time.perf_counter(), came))

    clients = [asyncio.create_task(client(number)) for number in range(args.clients)]
    await asyncio.sleep(args.seconds)
    start = time.perf_counter()
    os.kill(before[0], signal.SIGKILL)
    while (
        back := len(now := replicas()) == len(before) and before[0] not in now and await _all(address, len(now))
    ) is False:
        if time.perf_counter() > start + SECONDS:
            break
        await asyncio.sleep(0.25)
    recovered = time.perf_counter() - start
    await asyncio.sleep(args.seconds)
    stop.set()
    await asyncio.gather(*clients)
    rates = {
        "before": _rate(ends, start - args.seconds, start),
        "after the kill": _rate(ends, start, start + WINDOW),
        "until replaced": _rate(ends, start, start + recovered),
        "afterwards": _rate(ends, start + recovered, start + recovered + args.seconds),
    }
    kinds = sorted({came for _, came in ends})
    return {
        "answers": {kind: sum(came == kind for _, came in ends) for kind in kinds},
        "seconds_until_replaced": round(recovered, 1) if back else None,
        "longest_silence": round(_silence(ends, start), 2),
        "requests_per_second": rates,
    }


async def _answered(http: httpx.AsyncClient, body: dict[str, Any]) -> str:
    try:
        reply = await http.post("/v1/completions", json=body)
        told = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        return f"lost: {type(error).__name__}"
    return "whole" if reply.status_code == 200 else f"error {reply.status_code} {told['error']['code']}"


async def _streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> str:
    last, came = "", "stream without an end"
    try:
        async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as reply:
            async for line in reply.aiter_lines():
                if line == "data: [DONE]":
                    came = "stream"
                elif line:
                    last = line
    except httpx.HTTPError as error:
        return f"lost: {type(error).__name__}"
    told = json.loads(last.removeprefix("data: "))
    return f"stream ended by error {told['error']['code']}" if "error" in told else came


def replicas() -> list[int]:
    """The replicas' processes on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::ServeReplica:sfumato:model"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(found)


async def _all(address: str, count: int) -> bool:
    """Whether so many replicas say something of themselves."""
    async with httpx.AsyncClient(base_url=address, timeout=300) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(line.startswith("queue_depth{") for line in lines) == count


def _rate(ends: list[tuple[float, str]], since: float, until: float) -> float:
    return round(sum(since <= when < until for when, _ in ends) / max(until - since, 1e-9), 1)


def _silence(ends: list[tuple[float, str]], since: float) -> float:
    """Longest time after the kill in which no client heard anything to the end."""
    times = sorted([since, *(when for when, _ in ends if when > since)])
    return max((b - a for a, b in zip(times, times[1:], strict=False)), default=0.0)


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    runs: dict[str, Any] = {}
    expected: dict[int, str] = {}
    flags = ("--threads", "1", "--queue", "4096", "--feedback-url", "none")
    with server(args.model, *flags) as address:
        runs["plain server"] = await measured(address, args, expected)
    with server(args.model, *flags, "--replicas", "1") as address:
        runs["1 replica"] = await measured(address, args, expected)
    with server(args.model, *flags, "--replicas", "2") as address:
        runs["2 replicas"] = await measured(address, args, expected)
        loss = await killed(address, args)
    with server(args.model, *flags) as address:
        runs["plain server again"] = await measured(address, args, expected)
    return {"runs": runs, "killed": loss}


def main() -> int:
    """Measure, print, and say by the exit code whether nothing was lost without a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_flags(parser)
    parser.add_argument("--model", default="tiny", help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=96, help="of each run (default: %(default)s)")
    parser.add_argument("--tokens-per-forward", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="of load before and after (default: %(default)s)")
    args = parser.parse_args()
    args.twin = ""
    device, dtype = bench.begin(args)
    found = asyncio.run(measure(args))
    found |= {"model": args.model, "machine": bench.machine(device, dtype)}
    names = ("tokens_per_second", "requests_per_second", "p50", "p95", "one token", "/health", "lost", "differ")
    heads = ("tokens/s", "req/s", "p50 s", "p95 s", "1 token ms", "/health ms", "lost", "differ")
    print(f"{'':20}{''.join(f'{head:>12}' for head in heads)}")
    for name, row in found["runs"].items():
        print(f"{name:20}{''.join(f'{row[key]:>12}' for key in names)}")
    loss = found["killed"]
    print(f"one of two killed: {loss['answers']}")
    print(f"replaced after {loss['seconds_until_replaced']} s; longest silence {loss['longest_silence']} s")
    print("requests/s:", ", ".join(f"{when} {rate}" for when, rate in loss["requests_per_second"].items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    silent = [kind for kind in loss["answers"] if kind.startswith(("lost", "stream without", "error 500"))]
    most = args.requests // 20  # another batch rounds differently
    right = not any(row["lost"] or row["differ"] > most for row in found["runs"].values())
    return 0 if right and not silent and loss["seconds_until_replaced"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
