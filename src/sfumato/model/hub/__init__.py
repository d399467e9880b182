"""Public models: folders of LLaDA, Dream, SDAR, Qwen, Llama, read and written. One small file a family.

Importing this also tells the Auto classes of the transformers library about our own models: at once if the library is
imported, else when it is. It takes seconds to import, and reading and writing folders needs none of it.
"""

from sfumato.model.hub.behind import behind_import
from sfumato.model.hub.reading import FAMILIES, describe, family_of, read


def _register() -> None:
    try:
        from sfumato.model.hub.auto import register
    except ImportError:  # a version without what the classes need
        return
    register()


behind_import("transformers", _register)

__all__ = ["FAMILIES", "describe", "family_of", "read"]
