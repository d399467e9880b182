"""Going on with training on other documents: a model learns a field, a style or a language."""

from sfumato.train.denoising import denoising as prepare

__all__ = ["prepare"]
