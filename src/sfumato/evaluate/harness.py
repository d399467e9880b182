"""Models of this package in the Language Model Evaluation Harness (EleutherAI's lm-eval): `--model sfumato`.

Importing this file registers them. `python -m sfumato.evaluate.harness run --model sfumato --model_args
pretrained=FOLDER ...` is lm-eval's own command line with that done; `sfumato evaluate MODEL --tasks NAME` is ours.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sfumato import rng
from sfumato.config import ConfigError, closest
from sfumato.data.cache import digest
from sfumato.evaluate.answers import Answers, How, Progress
from sfumato.evaluate.continuation import NOISES, Continuation
from sfumato.evaluate.prompts import Prompts
from sfumato.sample.custom import names_file
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.many import SHARED, Asked
from sfumato.sample.settings import Settings
from sfumato.sample.writing import check_stops, seed_of

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:
    raise ConfigError("tasks are run by lm-eval, which is not installed; pip install 'sfumato[evaluate]'") from None

MAX_TOKENS = 256
"""Length of an answer where neither the task nor the caller says it; as in lm-eval's own models."""
OF_TASK = tuple(f.name for f in fields(Settings) if f.name not in (*SHARED, "seed"))
"""Settings of the decoder that a task may choose, beside lm-eval's own words for them."""


@register_model("sfumato")
class Harness(LM):
    """A language model of this package, diffusion or autoregressive, as lm-eval wants one.

    Attributes:
        answers: where they come from, and what they took.
        ignored: what tasks asked for that means nothing here.
    """

    def __init__(
        self,
        pretrained: str | Path | LanguageModel = "tiny",
        *,
        estimator: str = "auto",
        samples: int = 128,
        batch_size: int | str = 8,
        seed: int = 0,
        greedy: bool = True,
        keep: str | Path | None = None,
        progress: Progress | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch_size: Any = None,
        max_tokens: int | None = None,
        **settings: Any,
    ):
        """Load a model for evaluation.

        Args:
            pretrained: a bundle's folder, the name of a model that comes along, or a model.
            estimator: of likelihoods; see `evaluate.continuation`.
            samples: random noisings of each text, for a bound; LLaDA's evaluation takes 128.
            batch_size: sequences in a forward pass, and texts written at a time; changes speed and memory only.
            seed: all randomness follows from it.
            greedy: find out whether a continuation is what greedy decoding writes (`evaluate.greedy`), which a few
                metrics ask for; else it counts as not.
            keep: file that keeps every answer, for a run that is stopped to go on with.
            progress: told what is being done, how much of it is, and of how much; None = a bar, in a terminal.
            device: auto, cpu, cuda or mps; lm-eval's default, cuda:0, is taken for auto.
            dtype: auto, float32 or bfloat16.
            max_batch_size: lm-eval's, for automatic batch sizes; there are none here.
            max_tokens: length of answers, whatever a task says.
            settings: fields of `Settings`, whatever a task says.

        Raises:
            ValueError: an impossible or unknown setting, or a model that cannot be loaded.
        """
        super().__init__()
        device = "auto" if device == "cuda:0" else device
        self.model = (
            pretrained if isinstance(pretrained, LanguageModel) else LanguageModel.load(pretrained, device, dtype)
        )
        self._device = self.model.device
        self.chosen = {name: value for name, value in settings.items() if value is not None}
        for name in self.chosen:
            if name not in Settings.__dataclass_fields__:
                hint = closest(name, (*Settings.__dataclass_fields__, "estimator", "samples", "max_tokens", "greedy"))
                raise ConfigError(f"unknown setting {name}{f'; did you mean {hint}?' if hint else ''}")
        self.max_tokens, self.prompts, self.ignored = max_tokens, Prompts(self.model), set[str]()
        how = How(estimator, samples, seed, 8 if str(batch_size).startswith("auto") else int(batch_size), greedy)
        plan = self.model.front.plan({**self.chosen, "seed": seed})
        self.answers = Answers(self.model, plan, how, keep=keep, progress=progress or _bars())

    # --- what lm-eval asks ---

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Of each (context, continuation) the log-likelihood, or the bound on it, and whether it is greedy."""
        pairs = [self.prompts.pair(*request.args) for request in requests]
        places = [_place(request) for request in requests]
        longest = defaultdict[Any, int](int)
        for place, (_, tokens) in zip(places, pairs, strict=True):
            longest[place] = max(longest[place], len(tokens))
        items = [
            Continuation(before, tokens, _noise(place), longest[place])
            for place, (before, tokens) in zip(places, pairs, strict=True)
        ]
        found = self.answers.likelihoods("loglikelihood", items, greedy=True)
        return [(-one["nats"], one["greedy"]) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """The log-likelihood of each (text,), or the bound on it; the end of the text is not scored."""
        items, owner = [], []
        for i, request in enumerate(requests):
            for n, (before, tokens) in enumerate(self.prompts.windows(*request.args)):
                items.append(Continuation(before, tokens, _noise((*_place(request), n))))
                owner.append(i)
        totals = [0.0] * len(requests)
        for i, one in zip(owner, self.answers.likelihoods("loglikelihood_rolling", items), strict=True):
            totals[i] -= one["nats"]
        return totals

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """What follows each context, up to the first of the strings that the request names."""
        seen, asked = Counter[Any](), []
        for i, request in enumerate(requests):
            context, wanted = request.args
            place = i if request.doc_id is None else request.doc_id
            asked.append(self._asked(context, wanted, self._seed(place, seen[_place(request), context])))
            seen[_place(request), context] += 1
        return self.answers.texts("generate_until", asked)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text that this model alone understands; see `evaluate.prompts`."""
        return self.prompts.render(chat_history, answer=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval tells request caches apart by."""
        return f"sfumato-{self.model.bundle.config.tokenizer_sha256[:12]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """How conversations are rendered, for the record; None where they are not."""
        if chat_template is False or self.model.chat_template is None:
            return None
        return str(self.model.chat_template.to_dict())

    # --- how it is answered ---

    def _asked(self, context: str, wanted: Mapping[str, Any], seed: int) -> Asked:
        """A text to write, by what a task wants and the caller has chosen."""
        stops = check_stops([stop for stop in _listed(wanted.get("until")) if stop])
        max_tokens = self.max_tokens or int(wanted.get("max_gen_toks", wanted.get("max_new_tokens", MAX_TOKENS)))
        settings = {name: wanted[name] for name in OF_TASK if wanted.get(name) is not None}
        if names_file(str(settings.get("sampler", ""))):  # a task file must not run code through us
            raise ConfigError(f"sampler: got {settings['sampler']!r}, but only the caller may name a file")
        if not wanted.get("do_sample", "temperature" in wanted):
            settings["temperature"] = 0.0
        known = ("until", "max_gen_toks", "max_new_tokens", "do_sample", *OF_TASK)
        self.ignored |= {name for name in wanted if name not in known}
        plan = self.model.front.plan({**settings, **self.chosen, "seed": seed})
        row = self.model.front.behind(self.prompts.prompt(context, max_tokens), max_tokens)
        return Asked(row, plan, seed, stops)

    def _seed(self, place: int, again: int) -> int:
        """Of the text for a document; of another one for the same document, if it is asked for again."""
        seed = seed_of(self.answers.how.seed, place)
        return int(rng.mix(seed, again)) % 2**63 if again else seed


def _place(request: Instance) -> tuple[Any, ...]:
    """What a request belongs to: the document of its task, or its own context where nobody says."""
    if request.doc_id is None:
        return (request.args[0],)
    return request.task_name, request.doc_id


def _noise(place: Sequence[Any]) -> int:
    return digest(map(str, place)) % NOISES


def _listed(until: Any) -> list[str]:
    return [until] if isinstance(until, str) else list(until or [])


def _bars() -> Progress:
    """Bars as lm-eval's other models draw them; none where there is no terminal."""
    from tqdm import tqdm

    drawn: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in drawn:
            drawn[what] = tqdm(desc=what, total=total, disable=None)
        drawn[what].update(done - drawn[what].n)
        if done >= total:
            drawn.pop(what).close()

    return show


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
