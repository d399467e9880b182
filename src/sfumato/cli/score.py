"""`sfumato score`: how well a model does what its recipe is for."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.cli.progress import Bar, progress
from sfumato.config import ConfigError, Recipe, argument, load_recipe, option, parse

if TYPE_CHECKING:
    from sfumato.evaluate.metrics import Figure
    from sfumato.evaluate.questions import Question
    from sfumato.sample.language_model import LanguageModel

SETTINGS = ("sampler", "steps", "temperature", "threshold", "block")


@dataclass(frozen=True)
class Options:
    """The flags of this command."""

    recipe: str = argument("a recipe with a [score] section, a TOML file")
    model: str = option("", "folder of a bundle, or the name of one that comes along (default: runs/NAME/model)")
    n: int = option(200, "questions at most; 0 = all", at_least=0)
    data: str = option("", "score on these records, in place of score.path")
    batch: int = option(16, "answers written together; changes speed and memory only", at_least=1)
    samples: int = option(32, "noisings of each choice, where answers are chosen by likelihood", at_least=1)
    seed: int = option(0, "of the answers", at_least=0, below=2**63)
    temperature: float = option(0.0, "0 = always the most probable token", at_least=0)
    sampler: str | None = option(None, "which positions to write first (default, as below: the model's own)")
    steps: int | None = option(None, "forward passes at most")
    threshold: float | None = option(None, "threshold sampler: write every token that is at least so probable")
    block: int | None = option(None, "tokens a block; blocks are written from left to right; 0 = all in one")
    show: int = option(0, "print so many of the questions and answers", at_least=0)
    out: str = option("", "write questions and answers to this JSON-lines file")
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic; auto takes bfloat16 only where it is faster", DTYPES)
    json: bool = option(False, "write JSON, and nothing else, to standard output")


def run(words: list[str], out: TextIO) -> None:
    """Score a model and print the result."""
    about = "Let a model answer the held-out questions of a recipe, and judge the answers."
    options = parse(Options, words, "sfumato score", about)
    recipe = load_recipe(options.recipe)
    if options.data:
        recipe = replace(recipe, score=replace(recipe.score, path=options.data))
    if not recipe.score.path:
        raise ConfigError(f"{options.recipe}: no score.path; say in [score] what to score on, or give --data FILE")

    from sfumato.evaluate.metrics import needed
    from sfumato.evaluate.questions import questions
    from sfumato.sample.language_model import LanguageModel
    from sfumato.train.memory import keep_buffers

    needed(recipe.score.metrics)
    keep_buffers()
    first = recipe.data.sources[0].prompt if recipe.data.sources else ""
    asked = questions(recipe.score, first, at_most=options.n or None)
    named = options.model or str(Path("runs") / (recipe.name or Path(options.recipe).stem) / "model")
    model = LanguageModel.load(named, options.device, options.dtype)
    with progress() as bar:
        bar.begin("answering", len(asked))
        answers, figures, cost = (_chosen if recipe.score.choices else _written)(recipe, options, model, asked, bar)
    if options.json:
        found = {name: asdict(figure) for name, figure in figures.items()}
        about_run = {"model": str(model.path), "recipe": options.recipe, "questions": len(asked), "seed": options.seed}
        print(json.dumps({**about_run, "figures": found, **cost, "device": model.device.type}), file=out)
        return
    _print(options.show, asked, answers, figures, cost, out)


def _written(
    recipe: Recipe, options: Options, model: "LanguageModel", asked: "Sequence[Question]", bar: Bar
) -> "tuple[Sequence[str], dict[str, Figure], dict[str, Any]]":
    from sfumato.evaluate.metrics import judge
    from sfumato.evaluate.questions import answer

    done = answer(
        model,
        asked,
        hole=recipe.score.hole,
        max_tokens=recipe.score.max_tokens,
        batch=options.batch,
        seed=options.seed,
        progress=lambda count, _: bar.show(count),
        **{name: getattr(options, name) for name in SETTINGS},
    )
    if options.out:  # before they are judged: a record may lack what a metric needs
        _keep(Path(options.out), asked, done.texts)
    bar.begin("judging")
    references = [question.references for question in asked]
    figures = judge(recipe.score.metrics, done.texts, references, [question.record for question in asked])
    cost = {name: value for name, value in asdict(done).items() if name != "texts"}
    return done.texts, figures, cost


def _chosen(
    recipe: Recipe, options: Options, model: "LanguageModel", asked: "Sequence[Question]", bar: Bar
) -> "tuple[Sequence[str], dict[str, Figure], dict[str, Any]]":
    from sfumato.evaluate.choice import choose
    from sfumato.evaluate.metrics import mean

    choices = recipe.score.choices
    picked = choose(
        model,
        [question.prompt for question in asked],
        choices,
        samples=options.samples,
        seed=options.seed,
        progress=lambda count, _: bar.show(count),
    )
    answers = [choices[one.index] for one in picked]
    if options.out:
        _keep(Path(options.out), asked, answers)
    right = [float(text in question.references) for text, question in zip(answers, asked, strict=True)]
    return answers, {"accuracy": mean(right)}, {"samples": options.samples}


def _keep(path: Path, asked: "Sequence[Question]", answers: Sequence[str]) -> None:
    from sfumato.train.run import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        {"prompt": question.prompt, "references": question.references, "answer": text}
        for question, text in zip(asked, answers, strict=True)
    )
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _print(
    show: int,
    asked: "Sequence[Question]",
    answers: Sequence[str],
    figures: "dict[str, Figure]",
    cost: dict[str, Any],
    out: TextIO,
) -> None:
    from sfumato.show.pieces import harmless

    for question, text in list(zip(asked, answers, strict=True))[:show]:
        for name, words in (("asked", question.prompt), ("right", question.references[0]), ("said", text)):
            print(harmless(f"{name:6} {' '.join(words.split())}"), file=out)
        print(file=out)
    for name, figure in figures.items():
        print(
            f"{name:10} {figure.value:6.2f} +- {figure.stderr:.2f} (standard error)  {figure.note}".rstrip(), file=out
        )
    spent = f"; {cost['nfe']:.1f} forward passes an answer, {cost['tpf']:.2f} tokens a pass" if "nfe" in cost else ""
    print(f"{len(asked)} questions{spent}", file=out)
