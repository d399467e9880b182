"""Judge samplers by what they write: how probable their texts are to the autoregressive twin, and how varied.

A low number of bits alone means little (a text that repeats itself is probable), so the entropy of the words stands
beside it.

    python examples/compare_samplers.py --texts 8
"""

import argparse
import math
from collections import Counter

import sfumato
from sfumato.data.batches import rows_of
from sfumato.evaluate import likelihood

SETTINGS = [
    {"sampler": "ancestral", "steps": 64},
    {"sampler": "margin", "steps": 64},
    {"sampler": "margin", "steps": 64, "temperature": 0.7},
    {"sampler": "margin", "steps": 64, "temperature": 0.5},
    {"sampler": "margin", "steps": 64, "temperature": 0.7, "block": 16},
    {"sampler": "margin", "steps": 32, "temperature": 0.7},
    {"sampler": "entropy", "steps": 64, "temperature": 0.7},
    {"sampler": "confidence", "steps": 64, "temperature": 0.7},
    {"sampler": "threshold", "steps": 64, "temperature": 0.7, "threshold": 0.8},
    {"sampler": "left_to_right", "temperature": 0.7},
    {"sampler": "left_to_right", "temperature": 0.5},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--judge", default="tiny-ar", help="an autoregressive model")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    model, judge = sfumato.load(arguments.model), sfumato.load(arguments.judge)
    print(f"{'settings':58} {'NFE':>5} {'TPF':>5} {'judge bits/byte':>16} {'entropy of words':>17}")
    for settings in SETTINGS:
        written = model.generate(["Once upon a time"] * arguments.texts, max_tokens=arguments.max_tokens, **settings)
        texts = [one.text for one in written]
        batch, size = rows_of(texts, judge.tokenizer, judge.bundle.config.model.context)
        bits = likelihood(judge.denoiser, judge.process, judge.layout, batch, size, device=judge.device).bits_per_byte
        words = Counter(" ".join(texts).split())
        total = words.total()
        entropy = -sum(n / total * math.log2(n / total) for n in words.values())
        nfe = sum(one.stats.nfe for one in written) / len(written)
        tpf = sum(one.stats.committed for one in written) / sum(one.stats.nfe for one in written)
        print(f"{settings!s:58} {nfe:5.0f} {tpf:5.2f} {bits:16.3f} {entropy:17.2f}")


if __name__ == "__main__":
    main()
