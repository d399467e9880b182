"""The model card: the README.md of a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.config import Recipe

if TYPE_CHECKING:
    from sfumato.data.cache import Corpus
    from sfumato.evaluate import Likelihood
    from sfumato.model.bundle import Bundle

_CARD = """# {name}

{what} of {parameters} parameters, {made} below{alone}.

    sfumato {command} --model PATH/TO/THIS/FOLDER

| | |
|---|---|
{facts}

## Training text

{data}

## Quality

{quality}

## Samples

With the default settings and seeds 0, 1, 2; neither chosen nor edited.

{samples}

## Use and limits

For research, teaching and experiments. The model {does} of the kind that it was trained on; it
knows nothing else, states things that are not true, and repeats whatever bias its training text holds. It has not been
tuned to be safe{obeys}. Do not use it where a wrong text does harm.

## Licence

The licence of these weights has not been stated by whoever trained them. It cannot be wider than the terms of the
training text allow.
"""

_TRAINED = {
    "made": "trained from scratch with Sfumato on the text",
    "alone": " and on nothing else",
    "command": 'generate "Once upon a time"',
    "does": "continues and fills in text",
    "obeys": " or to follow instructions",
}
_TUNED = {
    "made": "tuned with Sfumato from {} to answer, on the conversations",
    "alone": "",
    "command": "chat",
    "does": "answers in conversations",
    "obeys": "",
}


def model_card(
    bundle: "Bundle", corpora: "list[Corpus]", recipe: Recipe, held_out: "Likelihood | None", samples: list[str]
) -> str:
    """Describe a freshly trained model.

    Args:
        bundle: the model.
        corpora: its data; sources are called by their file names alone, since folders are nobody's business.
        recipe: how it was trained.
        held_out: its likelihood on the text that was held out, if some was.
        samples: texts that it wrote.

    Returns:
        Markdown.
    """
    config, model, train = bundle.config, bundle.config.model, recipe.train
    kind = config.process.kind
    diffusion = kind != "autoregressive"
    objective = f", {config.process.schedule} schedule, objective {config.process.objective}" if diffusion else ""
    facts = {
        "Architecture": f"transformer, {model.layers} layers of width {model.width}, {model.heads} heads",
        "Context": f"{model.context} tokens",
        "Vocabulary": f"{model.vocab_size} tokens, byte-level BPE",
        "Process": f"{kind}{objective}, {config.layout} layout",
        "Training": f"{config.made['steps']} steps, {config.made['tokens']:,} tokens, {train.optimizer}, "
        f"{train.device} {train.dtype}, seed {recipe.seed}",
    }
    if bundle.adapter:
        facts["Adapter"] = f"rank {bundle.adapter.config.rank}, of {Path(recipe.init).name}, which has to be there"
    return _CARD.format(
        **(_TUNED | {"made": _TUNED["made"].format(Path(recipe.init).name)} if config.chat else _TRAINED),
        name=recipe.name or "A Sfumato model",
        what=f"A {kind} diffusion language model" if diffusion else "An autoregressive language model",
        parameters=f"{bundle.denoiser.num_parameters():,}",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        data=_sources(corpora, recipe, "answers" if config.chat else "documents"),
        quality=_quality(held_out),
        samples="\n\n".join("\n".join(f"> {line}".rstrip() for line in text.splitlines()) for text in samples),
    )


def _sources(corpora: "list[Corpus]", recipe: Recipe, units: str) -> str:
    """A table of what was read, under which licence, and the digest by which it can be known again."""
    if not corpora:
        return _learned_from(recipe)
    licences = {source.path: source.licence for source in recipe.data.sources}
    rows = [f"| source | {units} to train on | held out | tokens | licence | digest |", "|---|---|---|---|---|---|"]
    for corpus in corpora:
        name = _named(corpus.path)
        skipped = f" ({corpus.report.skipped} broken lines left out)" if corpus.report.skipped else ""
        counts = f"{len(corpus.train):,}{skipped} | {len(corpus.held_out):,} | {len(corpus.tokens):,}"
        if not corpus.whole:
            counts = f"streamed | {len(corpus.held_out):,} of its beginning | not counted"
        licence = " ".join(licences.get(corpus.path, "").replace("|", "/").split()) or "not stated"
        rows.append(f"| {name} | {counts} | {licence} | `{corpus.content[:12]}` |")
    return "\n".join(rows)


def _named(path: str) -> str:
    """What a card calls a source."""
    from sfumato.data.remote import without_query

    return path if path.startswith("hf:") else Path(without_query(path)).name


def _learned_from(recipe: Recipe) -> str:
    """What a tuning method that has no corpora learned from."""
    if recipe.method == "reinforce" and recipe.reinforce.task:
        return f"- problems of {recipe.reinforce.task}; rewarded: {', '.join(recipe.reinforce.reward)}"
    units = {"preference": "pairs of answers", "reinforce": "prompts"}.get(recipe.method, "documents")
    rows = []
    for source in recipe.data.sources:
        rows.append(f"- {_named(source.path)}: {units}, licence: {' '.join(source.licence.split()) or 'not stated'}")
    return "\n".join(rows)


def _quality(held_out: "Likelihood | None") -> str:
    if held_out is None:
        return "Not measured: no text was held out."
    sign, kind = ("at most ", "upper bound") if held_out.kind == "bound" else ("", "exact value")
    return (
        f"On held-out text: {sign}**{held_out.bits_per_byte:.3f} bits/byte**, {sign}{held_out.nats_per_token:.3f} "
        f"nats/token (standard error {held_out.stderr:.3f}).\n\n{held_out.tokens:,} tokens, {held_out.bytes:,} bytes; "
        f"{kind}: {held_out.estimator}, {held_out.samples} sample(s) a row, seed {held_out.seed}. "
        "Measured before the weights were rounded to bfloat16."
    )
