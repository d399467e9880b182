"""Which networks can be compressed."""

from sfumato.config import ConfigError
from sfumato.model.bundle import Bundle
from sfumato.model.transformer import Transformer


def ours(bundle: Bundle) -> Transformer:
    """The network of a bundle whose layers we know.

    Raises:
        ConfigError: it is one of the transformers library, or quantised already.
    """
    if not isinstance(bundle.denoiser, Transformer):
        raise ConfigError(
            "compress: the model's network is one of the transformers library, whose layers are not cut or rounded; "
            "use a model of a family that `sfumato convert` reads"
        )
    if bundle.config.quantised:
        raise ConfigError(f"compress: the model is quantised already ({bundle.config.quantised.kinds}); use its origin")
    return bundle.denoiser
