"""What `generate` and `infill` can be told about the text: guidance, words, and a choice among several."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sfumato.config import ConfigError, option

if TYPE_CHECKING:
    from sfumato.model.classifier import Classifier
    from sfumato.sample.guidance import Guidance
    from sfumato.sample.language_model import Generation, LanguageModel
    from sfumato.sample.search import Candidate

_NOTHING = -1e6  # nats a token: what a judge says of an empty text


@dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """The flags."""

    keywords: tuple[str, ...] = option((), "words that must appear; several with commas between them")
    guidance: float = option(0.0, "classifier-free guidance: how much more the prompt counts", at_least=-1)
    against: str | None = option(None, "prompt to guide away from (default: the prompt hidden)")
    levels: tuple[float, ...] = option(
        (0.0, 1.0), "noise between which all guidance acts: 1 = nothing is written", at_least=0, at_most=1
    )
    classifier: str = option("", "folder of a classifier that steers the text (sfumato classifier)")
    label: str = option("", "its label to steer towards")
    strength: float = option(1.0, "how strongly it steers", at_least=0)
    candidates: int = option(0, "tokens a place that it reads one by one; 0 = all at once, to first order", at_least=0)
    particles: int = option(0, "steer by so many weighted texts, of which one is drawn, instead", at_least=0)
    best_of: int = option(1, "write so many texts and keep the best", at_least=1)
    by: str = option(
        "certainty",
        "what is best: the surest, the most alike to the others, or the judge's choice",
        ("certainty", "mbr", "judge"),
    )
    judge: str = option("tiny-ar", "the autoregressive model that judges")


class Control:
    """The flags, made ready for one model."""

    def __init__(self, options: ControlOptions, model: "LanguageModel"):
        """Load what they name.

        Raises:
            ConfigError: flags that make no sense together, or a classifier of another tokenizer.
        """
        self.options, self.model = options, model
        if options.against is not None and not options.guidance:
            raise ConfigError("--against: needs --guidance, the strength of the guidance, such as --guidance 1")
        if bool(options.classifier) != bool(options.label):
            raise ConfigError("--classifier and --label: give both, the folder and the label to steer towards")
        if options.particles and (not options.classifier or options.best_of > 1):
            raise ConfigError("--particles: needs --classifier and --label, and does without --best-of")
        self.classifier = self._classifier() if options.classifier else None
        self.label = self.classifier.label(options.label) if self.classifier else 0
        self.judge = self._judge() if options.best_of > 1 and options.by == "judge" else None

    @property
    def texts(self) -> int:
        """How many texts are written for one that is shown."""
        return self.options.particles or self.options.best_of

    def settings(self) -> dict[str, Any]:
        """Options of `LanguageModel.generate`."""
        return {"keywords": self.options.keywords, "guidance": self._guidance()}

    def search(
        self, write: Callable[..., Any], text: str, template: bool, **settings: Any
    ) -> "tuple[Generation, dict[str, Any]]":
        """The text that is kept of several, and what to tell about the choice."""
        if self.options.particles:
            return self._steer(text, template, **settings)
        from sfumato.sample.search import agreement, best_of, certainty

        score = {"certainty": certainty, "mbr": agreement, "judge": self._judged}[self.options.by]
        found = best_of(write, text, self.options.best_of, score=score, **settings)
        total = sum(candidate.generation.stats.nfe for candidate in found)
        return found[0].generation, {
            "of": len(found),
            "by": self.options.by,
            "score": round(found[0].score, 4),
            "nfe": total,
        }

    def _steer(self, text: str, template: bool, **settings: Any) -> "tuple[Generation, dict[str, Any]]":
        import torch

        from sfumato import rng
        from sfumato.sample.categorical import categorical
        from sfumato.sample.steer import steer

        found = steer(
            self.model,
            text,
            self._reward,
            count=self.options.particles,
            strength=self.options.strength,
            template=template,
            **settings,
        )
        log_weight_1P = torch.tensor([[particle.weight for particle in found]], dtype=torch.float64).log()
        chosen = found[int(categorical(log_weight_1P, rng.uniform(torch.tensor([settings["seed"]]), len(found))))]
        details = {"of": len(found), "by": "particles", "score": round(chosen.reward, 4)}
        return chosen.generation, {**details, "nfe": sum(particle.generation.stats.nfe for particle in found)}

    def _guidance(self) -> "list[Guidance]":
        from sfumato.sample.guidance import ByClassifier, ClassifierFree, Guidance

        options, found = self.options, list[Guidance]()
        levels = tuple(options.levels)
        if len(levels) != 2:
            raise ConfigError(f"--levels: expected two numbers, lowest,highest, got {list(levels)}")
        if options.guidance:
            against = None
            if options.against is not None:
                against = (*self.model.tokenizer.begin, *self.model.tokenizer.encode(options.against))
            whole = self.model.bundle.config.tokens.start is None
            found.append(ClassifierFree(options.guidance, against, levels, whole))
        if self.classifier and not options.particles:
            found.append(ByClassifier(self.classifier, self.label, options.strength, options.candidates, levels))
        return found

    def _classifier(self) -> "Classifier":
        from sfumato.model.classifier import Classifier

        classifier = Classifier.load(self.options.classifier, self.model.device)
        if classifier.config.tokenizer_sha256 != self.model.bundle.config.tokenizer_sha256:
            raise ConfigError(
                f"--classifier {self.options.classifier}: it reads other tokens than this model writes; train it with "
                "--noise and this model"
            )
        return classifier

    def _reward(self, text: str) -> float:
        """Log p(label | text)."""
        import torch

        assert self.classifier is not None
        ids = [*self.model.tokenizer.begin, *self.model.tokenizer.encode(text)]
        tokens_1L = torch.tensor([ids], device=self.model.device)
        position_1L = torch.arange(len(ids), device=self.model.device)[None]
        t_1 = torch.zeros(1, device=self.model.device)
        return float(self.classifier.log_probability(tokens_1L, position_1L, t_1)[0, self.label])

    def _judge(self) -> "LanguageModel":
        from sfumato.evaluate.judge import check_judge
        from sfumato.sample.language_model import LanguageModel

        judge = LanguageModel.load(self.options.judge, self.model.device.type)
        check_judge(judge)
        return judge

    def _judged(self, candidates: "Sequence[Candidate]") -> list[float]:
        """Mean log-probability of each text under the judge, nats a token."""
        from sfumato.evaluate.judge import judge
        from sfumato.evaluate.passage import Passage

        assert self.judge is not None
        scores = []
        for one in (candidate.generation for candidate in candidates):
            prompt = one.text.removesuffix(one.completion) if one.completion else one.text
            passage = Passage(prompt, one.completion, one.finish_reason == "stop")
            scores.append(-judge(self.judge, [passage]).nats_per_token if one.completion else _NOTHING)
        assert all(map(math.isfinite, scores))
        return scores
