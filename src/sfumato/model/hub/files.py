"""The files of a public model: JSON read with one clear line where it is broken, and folders fetched by name."""

import json
from pathlib import Path
from typing import Any

from sfumato.model.weights import BundleError

SAFE = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.jinja", "README.md"]
"""What is fetched: weights without code, settings, the tokenizer, the card."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        BundleError: it is there and broken.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); download the file again") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected an object, got {type(content).__name__}; download the file again")
    return content


def fetch(name: str) -> Path:
    """The folder of a model on the Hugging Face hub, out of the cache where it is there; nothing in it is run.

    Args:
        name: OWNER/NAME, or OWNER/NAME@REVISION.

    Raises:
        BundleError: huggingface_hub is not installed, there is no such model, or it can be neither reached nor found in
            the cache.
    """
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:
        raise BundleError(f"hf:{name}: needs huggingface_hub, not installed here: pip install 'sfumato[hub]'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    if repository.count("/") != 1:
        raise BundleError(f"hf:{name}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    others = ["*/*", "consolidated*"]  # weights again, in other formats
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=SAFE, ignore_patterns=others)
        )
    except LocalEntryNotFoundError:
        raise BundleError(
            f"hf:{name}: the hub cannot be reached, and the model is not in the cache; connect, or copy its folder "
            "here and name that"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"hf:{name}: cannot be fetched ({reason}); check the name and your access") from None
