"""What control costs and brings: guidance, steering by a classifier, a choice among several, words that must appear.

Every forward pass of the denoiser counts. Quality stands beside it: nats a token of the kept texts under a judge, and,
where classifiers are given, what a second one that did not steer says of the label.
"""

import argparse
import json
import lzma
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench import add_flags, begin, existing_file, finish, machine, print_table

import sfumato
from sfumato.evaluate.judge import judge
from sfumato.evaluate.passage import written
from sfumato.model.classifier import Classifier
from sfumato.sample.guidance import ByClassifier, ClassifierFree
from sfumato.sample.keywords import holds
from sfumato.sample.search import agreement, best_of, certainty
from sfumato.sample.steer import steer

Texts = tuple[list[sfumato.Generation], float]  # those kept, and all forward passes a text


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--judge", default="tiny-ar")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--texts", type=int, default=20, help="a row of the table (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=48, help="of a text (default: %(default)s)")
    parser.add_argument("--of", type=int, default=8, help="best of so many, particles (default: %(default)s)")
    parser.add_argument("--classifier", type=Path, help="folder of one that steers")
    parser.add_argument("--examiner", type=Path, help="folder of one that learned from other texts")
    parser.add_argument("--label", default="pos")
    parser.add_argument("--concepts", type=existing_file, help="JSON lines with a list of words under `concepts`")
    args = parser.parse_args()
    device, dtype = begin(args)
    bench = Bench(args, device)
    rows = [bench.row(name, write) for name, write in bench.ways()]
    head = ["", "forwards a text", "judge, nats a token", f"log p({args.label})", "seconds a text"]
    print_table(head, [[str(value) for value in row.values()] for row in rows])
    keywords = bench.keywords() if args.concepts else None
    if keywords:
        print("\n" + ", ".join(f"{name} {value}" for name, value in keywords.items()))
    notes = ["the judge learned from the same text as the writer; the passes of classifiers and judges are not counted"]
    finish(args.json, machine(device, dtype), notes, rows=rows, keywords=keywords)


class Bench:
    """The models."""

    def __init__(self, args: argparse.Namespace, device: torch.device):
        """Load them."""
        self.args = args
        self.model = sfumato.load(args.model, device.type, args.dtype)
        self.judge = sfumato.load(args.judge, device.type, args.dtype)
        self.classifier = Classifier.load(args.classifier, device) if args.classifier else None
        self.examiner = Classifier.load(args.examiner, device) if args.examiner else None

    def ways(self) -> list[tuple[str, Callable[[], Texts]]]:
        """Ways to write, by name."""
        many = self.args.of
        found: list[tuple[str, Callable[[], Texts]]] = [
            ("plain", self.plain),
            ("classifier-free, scale 1", lambda: self.plain(ClassifierFree(1.0))),
            ("classifier-free, scale 1, t < 0.8", lambda: self.plain(ClassifierFree(1.0, levels=(0.0, 0.8)))),
            (f"best of {many}, certainty", lambda: self.best(certainty)),
            (f"best of {many}, minimum Bayes risk", lambda: self.best(agreement)),
        ]
        if self.classifier is None:
            return found
        label = self.classifier.label(self.args.label)
        for strength in (4.0, 16.0):
            guidance = ByClassifier(self.classifier, label, strength)
            found.append((f"classifier, first order, {strength:g}", lambda g=guidance: self.plain(g)))
        guidance = ByClassifier(self.classifier, label, 4.0, candidates=8)
        found.append(("classifier, 8 candidates, 4", lambda: self.plain(guidance)))
        found.append((f"{many} particles, strength 4", self.steered))
        return found

    def row(self, name: str, write: Callable[[], Texts]) -> dict[str, Any]:
        """Write the texts and measure them."""
        start = time.perf_counter()
        texts, passes = write()
        seconds = (time.perf_counter() - start) / len(texts)
        nats = judge(self.judge, written([self.args.prompt] * len(texts), texts)).nats_per_token
        label = self.examined(texts) if self.examiner else "-"
        return {"way": name, "forwards": round(passes, 1), "nats": round(nats, 3), "label": label,
                "seconds": round(seconds, 2)}  # fmt: skip

    def plain(self, *guidance: Any) -> Texts:
        """Each text as it comes."""
        prompts = [self.args.prompt] * self.args.texts
        texts = self.model.generate(prompts, max_tokens=self.args.tokens, guidance=guidance)
        return texts, sum(text.stats.nfe for text in texts) / len(texts)

    def best(self, score: Any) -> Texts:
        """The best of several."""
        kept, passes = [], 0
        for i in range(self.args.texts):
            seed = i * self.args.of
            found = best_of(
                self.model.generate, self.args.prompt, self.args.of, score=score, max_tokens=self.args.tokens, seed=seed
            )
            kept.append(found[0].generation)
            passes += sum(candidate.generation.stats.nfe for candidate in found)
        return kept, passes / len(kept)

    def steered(self) -> Texts:
        """The heaviest of several particles."""
        kept, passes = [], 0
        for i in range(self.args.texts):
            found = steer(
                self.model,
                self.args.prompt,
                lambda text: self.told(self.classifier, [text])[0],
                count=self.args.of,
                strength=4.0,
                max_tokens=self.args.tokens,
                seed=i * self.args.of,
            )
            kept.append(max(found, key=lambda particle: particle.weight).generation)
            passes += sum(particle.generation.stats.nfe for particle in found)
        return kept, passes / len(kept)

    def told(self, classifier: Classifier | None, texts: Sequence[str]) -> list[float]:
        """log p(label | text)."""
        assert classifier is not None
        told = []
        for text in texts:
            ids = torch.tensor([[*self.model.tokenizer.begin, *self.model.tokenizer.encode(text)]])
            ids = ids.to(self.model.device)
            position = torch.arange(ids.shape[1], device=ids.device)[None]
            log_p = classifier.log_probability(ids, position, torch.zeros(1, device=ids.device))
            told.append(float(log_p[0, classifier.label(self.args.label)]))
        return told

    def examined(self, texts: Sequence[sfumato.Generation]) -> str:
        """Mean log p(label | text) of the examiner, in nats, and its standard error."""
        told = torch.tensor(self.told(self.examiner, [text.text for text in texts]), dtype=torch.float64)
        error = float(told.std(correction=min(1, len(told) - 1))) / len(told) ** 0.5
        return f"{float(told.mean()):.2f} +- {error:.2f}"

    def keywords(self) -> dict[str, Any]:
        """How many of the words that were asked for are in the texts, placed and only by chance."""
        opened = lzma.open if self.args.concepts.suffix == ".xz" else open
        with opened(self.args.concepts, "rt", encoding="utf-8") as lines:
            sets = list(dict.fromkeys(tuple(json.loads(line)["concepts"]) for line in lines))[: self.args.texts]
        held, chance, count, passes = 0, 0, 0, [0, 0]
        for seed, words in enumerate(sets):
            options = {"max_tokens": self.args.tokens, "seed": seed}
            text, free = (self.model.generate("", keywords=k, **options) for k in (words, ()))
            held += sum(holds(text.text, word) for word in words)
            chance += sum(holds(free.text, word) for word in words)
            count += len(words)
            passes = [passes[0] + text.stats.nfe, passes[1] + free.stats.nfe]
        return {
            "sets": len(sets),
            "words": count,
            "coverage": held / count,
            "by chance": round(chance / count, 4),
            "forwards": round(passes[0] / len(sets), 1),
            "forwards without": round(passes[1] / len(sets), 1),
        }


if __name__ == "__main__":
    main()
