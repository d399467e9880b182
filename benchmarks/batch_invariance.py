"""Does a text depend on its neighbours? Rows in batches of 8 against the same rows alone, float32 and bfloat16.

The draws are the same by construction; what may differ is the rounding of the matrix products, and with it now and then
a token. `--batch-invariant` of the server writes every row by itself: then nothing can.

    python benchmarks/batch_invariance.py --texts 64
"""

import argparse
import json

import bench
from serve_load import PROMPTS

from sfumato.sample.language_model import LanguageModel
from sfumato.serve.engine import Engine, Job


def write(
    model: LanguageModel, texts: int, max_tokens: int, *, rows: int, alone: bool = False
) -> tuple[list[tuple[int, ...]], float]:
    """All texts by one engine, all asked for at once; and the seconds inside the network."""
    engine = Engine(rows=rows, batch_invariant=alone, prefix_bytes=0)
    engine.load("model", "1", model)
    plan = model.front.plan({"sampler": "confidence", "steps": max(1, max_tokens // 4)})
    for number in range(texts):
        row = model.front.row(PROMPTS[number % len(PROMPTS)], max_tokens)
        request = plan.request(row.tokens, row.editable, steps=plan.steps(row.room), seed=number)
        engine.submit(Job(str(number), "model", "1", (request,)))
    done: dict[int, tuple[int, ...]] = {}
    while engine.busy:
        for update in engine.step():
            if update.event is not None and update.event.tokens is not None:
                done[int(update.job)] = update.event.tokens
    return [done[number] for number in range(texts)], engine.stats().seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_flags(parser)
    parser.add_argument("--model", default="tiny", help="(default: %(default)s)")
    parser.add_argument("--texts", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="(default: %(default)s)")
    args = parser.parse_args()
    device, dtype = bench.begin(args)
    rows = []
    for precision in ("float32", "bfloat16"):
        model = LanguageModel.load(args.model, args.device, precision)
        alone, _ = write(model, args.texts, args.max_tokens, rows=1)
        for name, by_itself in (("batches of 8", False), ("batch invariant", True)):
            found, seconds = write(model, args.texts, args.max_tokens, rows=8, alone=by_itself)
            pairs = list(zip(alone, found, strict=True))
            flips = sum(a != b for one, other in pairs for a, b in zip(one, other, strict=True))
            rows.append(
                {
                    "dtype": precision,
                    "how": name,
                    "texts_that_differ": sum(one != other for one, other in pairs),
                    "texts": args.texts,
                    "flip_rate": flips / sum(map(len, alone)),
                    "seconds": round(seconds, 2),
                }
            )
    print(f"{'':28}{'texts that differ':>20}{'tokens that differ':>20}")
    for row in rows:
        share = f"{row['texts_that_differ']} of {row['texts']}"
        print(f"{row['dtype'] + ', ' + row['how']:28}{share:>20}{row['flip_rate']:>19.2%}")
    if args.json:
        found = {"rows": rows, "model": args.model, "machine": bench.machine(device, dtype)}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
