"""SARI: what a simplification keeps, deletes and adds, against its source and its references (Xu et al. 2016).

Source: Xu, Napoles, Pavlick, Chen and Callison-Burch 2016, "Optimizing statistical machine translation for text
simplification", TACL 4, equations 4 to 9; deletions count by precision alone, as in the authors' own code.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.evaluate.metrics import Figure, mean

FIELD = "original"
LONGEST = 4  # words in an n-gram


def score(
    answers: Sequence[str], references: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """Mean over the sentences, 0 to 100; `copied` is what leaving every sentence as it is would have."""
    sources = [record.get(FIELD) for record in found]
    if not all(isinstance(source, str) for source in sources):
        raise ValueError(f"sari: expected records with the text to simplify as {FIELD!r}")
    ours = [sari(str(one), text, refs) for one, text, refs in zip(sources, answers, references, strict=True)]
    copied = [sari(str(source), str(source), refs) for source, refs in zip(sources, references, strict=True)]
    return {"sari": Figure(mean(ours).value, mean(ours).stderr, f"copied {mean(copied).value:.1f}")}


def sari(source: str, answer: str, references: Sequence[str]) -> float:
    """Of one sentence, 0 to 1."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    words = Tokenizer13a()
    texts = [words(text.lower()).split() for text in (source, answer, *references)]
    scores = [_of_ngrams(*(_grams(text, n) for text in texts)) for n in range(1, LONGEST + 1)]
    return sum(map(sum, scores)) / 3 / LONGEST


def _of_ngrams(source: Counter, answer: Counter, *references: Counter) -> tuple[float, float, float]:
    """How well n-grams of one length are kept, deleted and added."""
    wanted: Counter = sum(references, Counter())
    # Each reference has a vote: the others count as often as there are references.
    source, answer = (Counter({g: n * len(references) for g, n in counts.items()}) for counts in (source, answer))
    kept, keepable = source & answer, source & wanted
    good = kept & wanted
    keep = _f1(_share(good, kept), _share(good, keepable))
    deleted = source - answer
    delete = _share(deleted - wanted, deleted)
    added, addable = set(answer) - set(source), set(wanted) - set(source)
    right = len(added & addable)
    add = _f1(right / len(added) if added else 0.0, right / len(addable) if addable else 0.0)
    return keep, delete, add


def _grams(words: list[str], n: int) -> Counter:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _share(part: Counter, whole: Counter) -> float:
    return sum(part[gram] / count for gram, count in whole.items()) / len(whole) if whole else 0.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
