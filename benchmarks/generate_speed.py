"""How fast we write: tokens/s and where the time goes, with every cache, beside the public programs.

    python benchmarks/generate_speed.py --compile --peer LLaDA/generate.py --fast-dllm Fast-dLLM/llada/generate.py

All networks have the same size and random weights, so this shows speed and nothing else; end of text, mask, padding and
start are never written, so every contestant writes the same number of tokens. Rounds are interleaved and ratios are
taken round by round. Compilation is no part of a round. The peers are no part of Sfumato: without one its rows are
left out.

Shape letters: B rows, P prompt length.
"""

import argparse
import statistics
import sys
from typing import Any

import bench
import torch
from contestants import END, FIRST, MASK, PAD, START, Contestant, Setting, everybody

from sfumato.config import ModelConfig
from sfumato.model.transformer import Transformer


def random_network(args: argparse.Namespace) -> Transformer:
    """Weights that make every position different, unlike those that training starts from."""
    config = ModelConfig(**bench.sizes_of(args), vocab_size=args.vocab, context=args.prompt + args.new, tied=False)
    network = Transformer(config, never_written=(MASK, END, PAD, START))
    bench.randomise(network)
    return network.eval().requires_grad_(False)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_sizes(parser, width=512, layers=8, heads=8, mlp_width=1792, vocab=8192)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=256, help="tokens to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=64, help="forwards to write them in (default: %(default)s)")
    parser.add_argument("--block", type=int, default=32, help="tokens a block, for the caches (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="rows at once, one table each (default: 1)")
    parser.add_argument("--compile", action="store_true", help="also compiled: exact caches, and transformers' Llama")
    parser.add_argument(
        "--peer", type=bench.existing_file, metavar="FILE", help="LLaDA's generate.py, to measure it as well"
    )
    parser.add_argument(
        "--fast-dllm", type=bench.existing_file, metavar="FILE", help="Fast-dLLM's llada/generate.py, likewise"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    bench.add_flags(parser)
    args = parser.parse_args()
    if args.steps < 1 or args.new % args.steps:
        parser.error(f"--steps must divide --new: got {args.steps} and {args.new}")
    if args.block < 1 or args.new % args.block or args.steps % (args.new // args.block):
        parser.error(f"--block must cut --new into blocks of equally many steps: got {args.block}")
    if args.prompt % args.block:
        parser.error(f"--block must divide --prompt, so that all write the same blocks: got {args.block}")
    return args


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    device, dtype = bench.begin(args)
    about, notes, errors = bench.machine(device, dtype), [], []
    if dtype == torch.float32 and args.dtype == "auto":
        notes.append("float32, because bfloat16 products are not faster on this device")
    network = random_network(args).to(device, dtype)
    blocks = network.num_parameters() - 2 * args.vocab * args.width
    print(f"{blocks / 1e6:.2f}M block parameters, {args.prompt} + {args.new} tokens, {args.steps} steps")
    tables = []
    for batch in args.batch:
        generator = torch.Generator().manual_seed(1)
        prompt_BP = torch.randint(FIRST, args.vocab, (batch, args.prompt), generator=generator).to(device)
        setting = Setting(network, prompt_BP, args.new, args.steps, args.block, device, dtype, args.compile)
        noted: list[str] = []
        all_of_them = everybody(setting, args.peer, args.fast_dllm, noted)
        notes += [note for note in noted if note not in notes]
        if measure(all_of_them, args.rounds):
            errors.append(f"batch {batch}: something was compiled inside a timed round")
        rows = [result(one, all_of_them, setting) for one in all_of_them]
        if dtype == torch.float32:
            errors += [f"batch {batch}: {row['name']}: not the tokens of {row['like']}" for row in differ(rows)]
        show(rows, batch)
        tables.append({"batch": batch, "rows": rows})
    bench.finish(args.json, about, notes, block_parameters=blocks, new=args.new, prompt=args.prompt, tables=tables)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return int(bool(errors))


def measure(all_of_them: list[Contestant], rounds: int) -> bool:
    """Warm up, then the rounds; returns whether something was compiled during them."""
    bench.forget_compiled()
    for one in all_of_them:
        print(f"warming up: {one.name}", file=sys.stderr, flush=True)
        one.warm_up()
    before = bench.compiled_graphs()
    for i in range(rounds):
        print(f"round {i + 1} of {rounds}", file=sys.stderr, flush=True)
        for one in all_of_them:
            one.play()
    return bench.compiled_graphs() != before


def result(one: Contestant, all_of_them: list[Contestant], setting: Setting) -> dict[str, Any]:
    """One row of the table."""
    rows = len(setting.prompt_BP)
    tokens, forwards = rows * setting.new, one.probe.forwards
    assert one.tokens is not None and one.tokens.shape == (rows, setting.new) and int(one.tokens.min()) >= FIRST
    model = next((other for other in all_of_them if other.name == one.like), None)
    ratios = {
        other.reference: bench.spread([b / a for a, b in zip(one.seconds, other.seconds, strict=True)])
        for other in all_of_them
        if other.reference
    }
    return {
        "name": one.name,
        "tokens_per_second": bench.spread([tokens / seconds for seconds in one.seconds]),
        "nfe": forwards,
        "tpf": round(setting.new / forwards, 3),
        "ms_per_forward": bench.spread([1000 * seconds / forwards for seconds in one.network_seconds]),
        "positions_per_token": round(one.probe.positions / tokens, 2),
        "outside": round(statistics.median(one.outside), 4),
        "compile_seconds": round(one.first_seconds - statistics.median(one.seconds), 1) if one.compiled else None,
        "ratios": ratios,
        "like": one.like or None,
        "exactly": one.exactly,
        "same_tokens": float((one.tokens == model.tokens).double().mean()) if model else None,
    }


def differ(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose tokens are not the ones that they must be.

    In bfloat16 probabilities tie, and different programs break ties differently, so there it is no error.
    """
    return [row for row in rows if row["exactly"] and row["same_tokens"] < 1]


REMARK = "same tokens: confidence as LLaDA's loop, caches as no cache; prefix and dual are approximate"


def show(rows: list[dict[str, Any]], batch: int, remark: str = REMARK) -> None:
    """Print the tables of one batch size: what it took, then the ratios; the remark says what tokens are compared."""
    head = [f"batch {batch}", "tokens/s (min-max)", "NFE", "TPF", "ms/forward", "positions/token", "outside"]
    head += ["same tokens", "compilation"]
    cells = [
        [
            row["name"],
            bench.shown(row["tokens_per_second"], ",.1f"),
            str(row["nfe"]),
            f"{row['tpf']:.2f}",
            f"{row['ms_per_forward']['median']:.1f}",
            f"{row['positions_per_token']:.1f}",
            f"{row['outside']:.0%}",
            "" if row["same_tokens"] is None else f"{row['same_tokens']:.2%}",
            "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.0f} s",
        ]
        for row in rows
    ]
    print()
    bench.print_table(head, cells)
    print(f"{remark}\n")
    titles = list(rows[0]["ratios"])
    ratios = [[row["name"], *(f"{row['ratios'][title]['median']:.2f}" for title in titles)] for row in rows]
    bench.print_table([f"batch {batch}, times the speed of", *titles], ratios)


if __name__ == "__main__":
    sys.exit(main())
