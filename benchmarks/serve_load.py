"""The server under load, on loopback: 8 rows against 1, latency with and without a page that streams, overload.

Every answer is compared with the answer to the same request alone, so the speed is that of the same texts. A lost one,
or with --batch-invariant one that differs at all, ends the script with exit code 1; without it the arithmetic of larger
matrix products may flip a token in a hundred texts (see batch_invariance.py), and more than one in twenty is an error.

    python benchmarks/serve_load.py --clients 64 --requests 192
"""

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import bench
import httpx
from serving import by_clients, quantile, server

PROMPTS = (
    "Once upon a time there was a little girl named",
    "One day, Tom went to the park with",
    "The big dog ran after",
    "Lily and Ben like to play",
    "There was a cat who wanted",
    "Mom said to Tim:",
    "In the garden there was a",
    "It was a sunny day and",
)


def question(number: int, args: argparse.Namespace) -> dict[str, Any]:
    """The body of a request; the same number is the same request."""
    body = {"model": args.model, "prompt": PROMPTS[number % len(PROMPTS)], "max_tokens": args.max_tokens}
    body |= {"seed": number, "temperature": 0.7}
    if args.model == args.twin:  # from left to right, one forward a token
        return body
    return body | {"sampler": "confidence", "steps": -(-args.max_tokens // args.tokens_per_forward)}


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """One request: seconds, status, text, tokens."""
    start = time.perf_counter()
    try:
        reply = await client.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        return {"status": type(error).__name__, "seconds": time.perf_counter() - start}
    found = {"status": reply.status_code, "seconds": time.perf_counter() - start, "headers": reply.headers}
    if reply.status_code == 200:
        content = reply.json()
        found |= {"text": content["choices"][0]["text"], "tokens": content["usage"]["completion_tokens"]}
        found |= {"nfe": content["usage"]["diffusion"]["nfe"]}
    return found


async def load(address: str, numbers: Iterable[int], clients: int, args: argparse.Namespace) -> dict[str, Any]:
    """Many clients, each with one request after the other."""
    return await by_clients(address, numbers, clients, lambda http, number: ask(http, question(number, args)))


def summary(run: dict[str, Any], expected: dict[int, str]) -> dict[str, Any]:
    """Figures of a run, and what went wrong in it."""
    good = [found for found in run["answers"].values() if found["status"] == 200]
    seconds = sorted(found["seconds"] for found in good)
    tokens = sum(found["tokens"] for found in good)
    return {
        "tokens_per_second": round(tokens / run["seconds"], 1),
        "requests_per_second": round(len(good) / run["seconds"], 2),
        **{f"p{q}": round(quantile(seconds, q), 3) for q in (50, 95)},
        "tpf": round(tokens / sum(found["nfe"] for found in good), 2),
        "lost": len(run["answers"]) - len(good),
        "differ": sum(
            found["text"] != expected.get(n, found["text"]) for n, found in run["answers"].items() if "text" in found
        ),
    }


@contextlib.asynccontextmanager
async def page(address: str, args: argparse.Namespace) -> AsyncIterator[list[float]]:
    """Somebody watches a text appear, again and again; gives the times to the first settled text."""
    first: list[float] = []

    async def watch() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=300) as http:
            while True:
                start, seen = time.perf_counter(), False
                body = question(random.Random(len(first)).randrange(10**6), args) | {"stream": True, "diffusing": True}
                async with http.stream("POST", "/v1/completions", json=body) as reply:
                    async for line in reply.aiter_lines():
                        if not seen and line.startswith("data: {") and json.loads(line[6:])["choices"]:
                            seen = True
                            first.append(time.perf_counter() - start)

    task = asyncio.create_task(watch())
    try:
        yield first
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def overload(address: str, args: argparse.Namespace) -> dict[str, Any]:
    """More than the queue holds: who is turned away is told when to come back, and afterwards all is well."""
    run = await load(address, range(args.clients), args.clients, args)
    answers = run["answers"].values()
    async with httpx.AsyncClient(base_url=address, timeout=300) as http:
        after = await ask(http, question(0, args))
    return {
        "statuses": dict(Counter(str(found["status"]) for found in answers)),
        "told_when": all("retry-after" in found["headers"] for found in answers if found["status"] in (429, 503)),
        "recovered": after["status"] == 200,
    }


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    numbers, found = range(args.requests), {}
    with server(args.model, "--rows", "1", "--queue", "4096") as address:
        alone = await load(address, numbers, 1, args)
        expected = {n: answer["text"] for n, answer in alone["answers"].items()}
        found["1 row, 1 client"] = summary(alone, expected)
        found[f"1 row, {args.clients} clients"] = summary(await load(address, numbers, args.clients, args), expected)
    with server(args.model, "--rows", "8", "--queue", "4096") as address:
        found[f"8 rows, {args.clients} clients"] = summary(await load(address, numbers, args.clients, args), expected)
        found["8 rows, 16 clients"] = summary(await load(address, numbers, 16, args), expected)
        async with page(address, args) as first:
            found["8 rows, 16 clients and a page"] = summary(await load(address, numbers, 16, args), expected)
        first = sorted(first)
    with server(args.model, "--rows", "8", "--queue", "4096", "--batch-invariant") as address:
        found["8 rows, each by itself"] = summary(await load(address, numbers, args.clients, args), expected)
    with server(args.model, "--rows", "8", "--queue", "8") as address:
        turned_away = await overload(address, args)
    twin = argparse.Namespace(**vars(args) | {"model": args.twin})
    with server(args.twin, "--rows", "8", "--queue", "4096") as address:
        found[f"{args.twin}, 8 rows, {args.clients} clients"] = summary(
            await load(address, numbers, args.clients, twin), {}
        )
    return {
        "runs": found,
        "page_first_text": {f"p{q}": round(quantile(first, q), 3) for q in (50, 95)} if first else None,
        "overload": turned_away,
    }


def main() -> int:
    """Measure, print, and say by the exit code whether every answer was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_flags(parser)
    parser.add_argument("--model", default="tiny", help="(default: %(default)s)")
    parser.add_argument("--twin", default="tiny-ar", help="an autoregressive model beside it (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=192, help="of each run (default: %(default)s)")
    parser.add_argument("--tokens-per-forward", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="(default: %(default)s)")
    args = parser.parse_args()
    device, dtype = bench.begin(args)
    found = asyncio.run(measure(args))
    runs = found["runs"]
    slow, fast = (runs[f"{rows}, {args.clients} clients"] for rows in ("1 row", "8 rows"))
    found["ratio"] = round(fast["tokens_per_second"] / slow["tokens_per_second"], 2)
    found["model"], found["machine"] = args.model, bench.machine(device, dtype)
    print(f"{'':32}{'tokens/s':>10}{'req/s':>8}{'p50 s':>8}{'p95 s':>8}{'TPF':>6}{'lost':>6}{'differ':>8}")
    for name, row in runs.items():
        figures = f"{row['tokens_per_second']:>10}{row['requests_per_second']:>8}{row['p50']:>8}{row['p95']:>8}"
        print(f"{name:32}{figures}{row['tpf']:>6}{row['lost']:>6}{row['differ']:>8}")
    print(f"8 rows against 1, {args.clients} clients: {found['ratio']}x")
    twin = runs[f"{args.twin}, 8 rows, {args.clients} clients"]["tokens_per_second"]
    found["ratio_to_twin"] = round(fast["tokens_per_second"] / twin, 2)
    print(f"against {args.twin}, which writes from left to right: {found['ratio_to_twin']}x")
    print(f"first text of the page: {found['page_first_text']}; overload: {found['overload']}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    most = {name: 0 if "itself" in name else args.requests // 20 for name in runs}
    right = not any(row["lost"] or row["differ"] > most[name] for name, row in runs.items())
    return 0 if right and found["overload"]["recovered"] and found["overload"]["told_when"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
