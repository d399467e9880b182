"""Sfumato: train, evaluate, generate and watch diffusion language models.

    import sfumato
    model = sfumato.load()
    print(model.generate("Once upon a time", max_tokens=64, steps=16, seed=0).text)

Importing this loads no torch; using it does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.sample.language_model import Generation as Generation
    from sfumato.sample.language_model import LanguageModel as LanguageModel

__version__ = "0.1.0"
__all__ = ["Generation", "LanguageModel", "__version__", "load"]


def load(path: Any = None, device: str = "auto", dtype: str = "auto") -> "LanguageModel":
    """Load a model: a bundle's folder, or the name of one that comes with the package (None = "tiny").

    See `LanguageModel.load`.
    """
    from sfumato.sample.language_model import LanguageModel

    return LanguageModel.load(path, device, dtype)


def __getattr__(name: str) -> Any:
    if name in ("Generation", "LanguageModel"):
        from sfumato.sample import language_model

        return getattr(language_model, name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
