"""`sfumato embed`: texts as vectors, and how much these say."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, Source, argument, option, parse

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.sample.language_model import LanguageModel

SHOWN = 10  # texts whose likeness is printed
TOGETHER = 256  # texts between two moves of the progress bar


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    texts: tuple[str, ...] = argument("texts; one that names a file or folder stands for what is in it", ())
    model: str = option("", "folder of a model bundle, or the name of one that comes along (default: tiny)")
    out: str = option("", "where the vectors go: .npy (a matrix) or .jsonl (one record a text)")
    field: str = option("text", "the key of a record that holds the text")
    layer: int | None = option(None, "layers to run; 0 = a bag of words (default: half of the model's)")
    pooling: str = option("mean", "over the tokens, or the last one", ("mean", "last"))
    dimensions: int | None = option(None, "keep the first so many (default: all)")
    probe: str = option("", "instead: how well a linear classifier learns the labels of this data from vectors")
    label: str = option("label", "--probe: the key of a record that holds its label")
    retrieve: str = option("", "instead: how well the vectors of this data's queries find their documents")
    query: str = option("title", "--retrieve: the key of a record that holds a query; its document is in --field")
    twin: str = option("", "--probe, --retrieve: another model to compare with, such as an autoregressive one")
    count: int = option(0, "read the first so many texts or records; 0 = all", at_least=0)
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic; auto takes bfloat16 only where it is faster", DTYPES)
    json: bool = option(False, "write JSON, and nothing else, to standard output")


def run(words: list[str], out: TextIO) -> None:
    """Embed texts, or measure embeddings."""
    about = "Turn texts into vectors of length 1 whose inner products say how alike they are."
    options = parse(Options, words, "sfumato embed", about)
    if sum(map(bool, (options.texts, options.probe, options.retrieve))) != 1:
        raise ConfigError("give texts (or a file), or --probe DATA, or --retrieve DATA; see sfumato embed --help")
    if Path(options.out).suffix not in ("", ".npy", ".jsonl"):
        raise ConfigError(f"--out {options.out}: expected a name that ends in .npy or .jsonl")
    from sfumato.sample.language_model import LanguageModel

    model = LanguageModel.load(options.model or None, options.device, options.dtype)
    if not options.texts:
        _measure(options, model, out)
        return
    with progress() as bar:
        texts = list(islice(_texts(options), options.count or None))
        if not texts:
            raise ConfigError(f"{', '.join(options.texts)}: no text in it; give texts or a file that holds some")
        how = {"layer": options.layer, "pooling": options.pooling, "dimensions": options.dimensions}
        found_NE = _embedded(model, texts, bar, "embedding", **how)
    if options.out:
        _save(Path(options.out), texts, found_NE)
    if options.json:
        import json

        for text, row in zip(texts, found_NE.tolist(), strict=True):
            print(json.dumps({"text": text, "embedding": row}), file=out)
        return
    print(f"{options.out or model.path}: {len(texts)} texts, {found_NE.shape[1]} dimensions", file=out)
    if 1 < len(texts) <= SHOWN:
        for text, row in zip(texts, (found_NE @ found_NE.T).tolist(), strict=True):
            print(" ".join(f"{value:6.3f}" for value in row), " ".join(text.split())[:60], file=out)


def _texts(options: Options) -> Iterator[str]:
    """Each argument, or the documents in what it names."""
    from sfumato.data.sources import DataError, Report, documents

    for given in options.texts:
        if not given.startswith("hf:") and not _exists(given):
            yield given
            continue
        for document in documents(Source(given, field=options.field), Report()):
            if not isinstance(document, str):
                raise DataError(f"{given}: expected texts, got conversations; name the key of a text with --field")
            yield document


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError):  # a text that is too long for a name
        return False


def _embedded(model: "LanguageModel", texts: list[str], bar: Bar, title: str, **how: Any) -> "Tensor":
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths together waste least
    bar.begin(title, len(texts))
    parts = []
    for begin in range(0, len(order), TOGETHER):
        parts.append(model.embed([texts[i] for i in order[begin : begin + TOGETHER]], **how))
        bar.show(min(begin + TOGETHER, len(order)))
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _save(path: Path, texts: list[str], found_NE: "Tensor") -> None:
    import json

    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, found_NE.numpy())
        return
    rows = zip(texts, found_NE.tolist(), strict=True)
    lines = (json.dumps({"text": text, "embedding": row}, ensure_ascii=False) + "\n" for text, row in rows)
    with open(path, "w", encoding="utf-8") as handle:
        handle.writelines(lines)


def _measure(options: Options, model: "LanguageModel", out: TextIO) -> None:
    """Score the model's vectors, a bag of its input embeddings, and those of a twin, on the same texts."""
    from sfumato.data.sources import labelled
    from sfumato.evaluate.embedding import probe, retrieval
    from sfumato.sample.language_model import LanguageModel

    kind, first, second = "probe", options.field, options.label
    if options.retrieve:
        kind, first, second = "retrieve", options.query, options.field
    read = labelled(options.probe or options.retrieve, first, second)[: options.count or None]
    ones, others = ([pair[i] for pair in read] for i in (0, 1))
    kinds = [(model, options.layer, options.pooling, options.pooling), (model, 0, "mean", "bag of words")]
    if options.twin:
        twin = LanguageModel.load(options.twin, options.device, options.dtype)
        kinds += [(twin, None, "mean", "mean"), (twin, None, "last", "last"), (twin, 0, "mean", "bag of words")]
    results: list[dict[str, Any]] = []
    with progress() as bar:
        for which, layer, pooling, name in kinds:
            how = {"layer": layer, "pooling": pooling, "dimensions": options.dimensions}
            ones_NE = _embedded(which, ones, bar, f"{which.path}: {name}", **how)
            if kind == "probe":
                score = asdict(probe(ones_NE, others, ones))
            else:
                score = asdict(retrieval(ones_NE, _embedded(which, others, bar, f"{which.path}: documents", **how)))
            results.append({"model": str(which.path), "process": which.process.name, "vectors": name, **score})
    if options.json:
        import json

        print(json.dumps({kind: options.probe or options.retrieve, "results": results}), file=out)
        return
    for one in results:
        name = f"{Path(one['model']).name} ({one['process']}), {one['vectors']}"
        if kind == "probe":
            said = f"accuracy {one['accuracy']:.1%} +- {one['stderr']:.1%} (majority {one['majority']:.1%})"
        else:
            said = f"recall@1 {one['recall_at_1']:.1%}, @10 {one['recall_at_10']:.1%}"
            said += f", MRR {one['reciprocal_rank']:.3f} +- {one['stderr']:.3f}"
        print(f"{name:44}  {said}", file=out)
