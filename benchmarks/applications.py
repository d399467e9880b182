"""What a model is good for: every recipe of recipes/apps scored, with its AR twin beside it in the same run.

Both answer the same held-out questions at temperature 0. Forward passes and tokens a second stand beside the quality;
all passes count, and neither model keeps keys between steps unless its layout does.

    applications.py --model runs/tiny-chat/model --twin runs/ar/model
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import add_flags, begin, finish, machine, print_table

from sfumato.config import Recipe, load_recipe
from sfumato.evaluate.choice import choose
from sfumato.evaluate.metrics import Figure, judge, mean
from sfumato.evaluate.questions import Question, answer, questions
from sfumato.sample.language_model import LanguageModel

APPS = Path(__file__).parents[1] / "recipes" / "apps"


def main() -> None:
    """Score both models by every recipe and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--model", default="tiny-chat")
    parser.add_argument("--twin", required=True, help="autoregressive, of the same size, data and budget")
    parser.add_argument("--apps", nargs="*", help="names of recipes (default: all whose data is there)")
    parser.add_argument("--recipes", type=Path, default=APPS, help="folder of the recipes (default: %(default)s)")
    parser.add_argument("--n", type=int, default=200, help="questions of each (default: %(default)s)")
    parser.add_argument("--show", type=int, default=0, help="print so many answers of each")
    args = parser.parse_args()
    device, dtype = begin(args)
    models = {
        name: LanguageModel.load(path, args.device, args.dtype)
        for name, path in (("model", args.model), ("twin", args.twin))
    }
    rows = []
    for path in sorted(args.recipes.glob("*.toml")):
        recipe = load_recipe(path)
        if (args.apps and path.stem not in args.apps) or not Path(recipe.score.path).exists():
            continue
        first = recipe.data.sources[0].prompt if recipe.data.sources else ""
        asked = questions(recipe.score, first, at_most=args.n)
        found = {name: scored(model, recipe, asked, args.show) for name, model in models.items()}
        rows += [row(path.stem, len(asked), metric, found) for metric in found["model"]["figures"]]
        print_table(
            list(rows[-1]), [[str(value) for value in row.values()] for row in rows if row["application"] == path.stem]
        )
    notes = ["+- is one standard error over questions; holes: the twin goes on with what stands before them"]
    finish(args.json, machine(device, dtype), notes, rows=rows)


def scored(model: LanguageModel, recipe: Recipe, asked: list[Question], show: int) -> dict[str, Any]:
    """Figures and cost of one model."""
    score, references = recipe.score, [question.references for question in asked]
    if score.choices:
        picked = [score.choices[one.index] for one in choose(model, [q.prompt for q in asked], score.choices)]
        right = [float(text in refs) for text, refs in zip(picked, references, strict=True)]
        return {"figures": {"accuracy": mean(right)}}
    done = answer(model, asked, hole=score.hole, max_tokens=score.max_tokens, temperature=0.0)
    for question, text in list(zip(asked, done.texts, strict=True))[:show]:
        print(f"  asked {question.prompt!r}\n  right {question.references[0]!r}\n  said  {text!r}")
    figures = judge(score.metrics, done.texts, references, [question.record for question in asked])
    return {"figures": figures, **asdict(done)}


def row(name: str, count: int, metric: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A line of the table."""

    def written(figure: Figure) -> str:
        return f"{figure.value:.1f} +- {figure.stderr:.1f}"

    def cost(of: dict[str, Any]) -> str:
        return f"{of['nfe']:.1f} / {of['tokens_per_second']:.0f}" if "nfe" in of else ""

    model, twin = found["model"], found["twin"]
    return {
        "application": name,
        "n": count,
        "metric": metric,
        "model": written(model["figures"][metric]),
        "AR twin": written(twin["figures"][metric]),
        "passes, tokens/s": cost(model),
        "twin's": cost(twin),
    }


if __name__ == "__main__":
    main()
