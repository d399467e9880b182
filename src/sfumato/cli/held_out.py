"""What `compare`, `sweep` and `evaluate` share: held-out text, whose beginnings are the prompts, and who judges."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.config import ConfigError, Source, option

if TYPE_CHECKING:
    from sfumato.data.batches import Batch
    from sfumato.data.sources import Document
    from sfumato.evaluate.passage import Passage
    from sfumato.sample.language_model import LanguageModel
    from sfumato.text.interface import AnyTokenizer


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """The flags of a command that lets models continue held-out text."""

    data: tuple[str, ...] = option((), "held-out text: file, folder or hf:NAME; several with commas between them")
    field: str = option("text", "the key of a record that holds the text")
    judge: str = option("", "an autoregressive model that says how probable the written texts are")
    n: int = option(16, "texts to write: one for each of the first so many documents", at_least=1)
    prompt_tokens: int = option(16, "tokens of a document that are given", at_least=1)
    max_tokens: int = option(64, "length of what is written, in tokens", at_least=1)
    temperature: float = option(1.0, "1 = as the model says; 0 = always the most probable token", at_least=0)
    seed: int = option(0, "all randomness follows from it", at_least=0, below=2**63)
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic; auto takes bfloat16 only where it is faster", DTYPES)
    json: bool = option(False, "write JSON, and nothing else, to standard output")

    def check_data(self, prog: str) -> None:
        """Refuse to go on without text (ConfigError)."""
        if not self.data:
            raise ConfigError(f"missing --data FILE: the text to predict and to take prompts from; see {prog} --help")

    def load(self, name: str) -> "LanguageModel":
        """A model by its name or folder."""
        from sfumato.sample.language_model import LanguageModel

        return LanguageModel.load(name, self.device, self.dtype)

    def load_judge(self) -> "LanguageModel | None":
        """The judge, if one was named; ValueError if it cannot judge."""
        if not self.judge:
            return None
        from sfumato.evaluate.judge import check_judge

        model = self.load(self.judge)
        check_judge(model)
        return model

    def read(self) -> "Iterator[Document]":
        """The held-out text."""
        from sfumato.data.sources import Report, documents

        return (found for path in self.data for found in documents(Source(path, field=self.field), Report()))

    def passages(self, tokenizer: "AnyTokenizer") -> "list[Passage]":
        """Its beginnings, and how they really go on."""
        from sfumato.evaluate.passage import held_out_passages

        return held_out_passages(
            self.read(), tokenizer, prompt_tokens=self.prompt_tokens, max_tokens=self.max_tokens, count=self.n
        )


def rows_for(model: "LanguageModel", found: "Iterable[Document]") -> "tuple[Batch, int]":
    """Documents as the rows that a model was trained on; where it knows conversations, those by its template.

    Returns:
        The rows, and the UTF-8 bytes of what counts in them.

    Raises:
        DataError: conversations with plain texts among them.
    """
    from itertools import chain, islice

    from sfumato.data.batches import rows_of
    from sfumato.train.denoising import turns

    rest, config = iter(found), model.bundle.config
    first = list(islice(rest, 1))
    encoder = turns(config) if config.chat and first and not isinstance(first[0], str) else None
    return rows_of(chain(first, rest), model.tokenizer, config.model.context, encoder)
