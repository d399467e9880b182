"""Public models: folders of LLaDA, Dream, SDAR, Qwen, Llama, read and written. One small file a family."""

from sfumato.model.hub.reading import FAMILIES, describe, family_of, read

__all__ = ["FAMILIES", "describe", "family_of", "read"]
