"""What `generate` can be told about the form of a text: a regular expression, several texts, or a JSON schema."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.config import ConfigError, option

if TYPE_CHECKING:
    from sfumato.sample.constraint import Constraint
    from sfumato.sample.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class StructuredOptions:
    """The flags, of which one at most is given."""

    regex: str = option("", "regular expression that all of the continuation matches")
    one_of: tuple[str, ...] = option((), "texts of which the continuation is one; with commas between them")
    json_schema: str = option("", "file with a JSON schema that the continuation obeys")
    json_object: bool = option(False, "the continuation is a JSON object")

    def constraint(self, model: "LanguageModel") -> "dict[str, Constraint]":
        """The option of `LanguageModel.generate` that they ask for.

        Raises:
            ConfigError: several at a time, or a file that cannot be read.
            ValueError: what they hold cannot be obeyed.
        """
        asked = {"regex": self.regex, "one_of": self.one_of, "json_schema": self.json_schema}
        asked = {name: value for name, value in {**asked, "json_object": self.json_object}.items() if value}
        if not asked:
            return {}
        if len(asked) > 1:
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
            raise ConfigError(f"{flags}: give one of them")
        return {"constraint": self._built(next(iter(asked)), model.tokenizer)}

    def _built(self, kind: str, tokenizer: Any) -> "Constraint":
        from sfumato.sample import constraint

        if kind == "regex":
            return constraint.regex(self.regex, tokenizer)
        if kind == "one_of":
            return constraint.choice(self.one_of, tokenizer)
        if kind == "json_object":
            return constraint.json_object(tokenizer)
        return constraint.json_schema(_read(self.json_schema), tokenizer)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"--json-schema: cannot read {path}: {reason}") from None
