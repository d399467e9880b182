"""Which model a command works on, and where it runs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.config import ConfigError, argument, option

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class ModelOptions:
    """The flags of a command that reads a model."""

    bundle: str = argument("folder of a model bundle, or the name of one that comes along (default: tiny)", "")
    model: str = option("", "the same as BUNDLE, as a flag")
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic; auto takes bfloat16 only where it is faster", DTYPES)
    json: bool = option(False, "write JSON, and nothing else, to standard output")

    @property
    def name(self) -> str | None:
        """The folder or the name; None = the bundled model.

        Raises:
            ConfigError: two different ones were named.
        """
        if self.bundle and self.model and self.bundle != self.model:
            raise ConfigError(f"two models: {self.bundle!r} and --model {self.model!r}; name one")
        return self.bundle or self.model or None

    def load(self) -> "LanguageModel":
        """The model.

        Raises:
            ConfigError: two different ones were named.
            BundleError: it is missing or broken.
        """
        from sfumato.sample.language_model import LanguageModel

        return LanguageModel.load(self.name, self.device, self.dtype)
