"""Public models: folders of LLaDA, Dream, SDAR, Qwen, Llama, read and written. One small file a family.

Importing this also tells the Auto classes of the transformers library, where that is installed, about our own models.
"""

from sfumato.model.hub.reading import FAMILIES, describe, family_of, read

try:
    from sfumato.model.hub.auto import register
except ImportError:  # no transformers: reading and writing folders needs none
    pass
else:
    register()

__all__ = ["FAMILIES", "describe", "family_of", "read"]
