"""What data care is made of: changes, which make another text of a text, and tests, which say why one has to go.

Both are plain callables with a name, so a user's own (a redactor that asks another library, say) stands beside ours.
"""

from typing import Protocol

from sfumato.data.sources import DataError


class Change(Protocol):
    """Makes a better text of a text, or gives it back as it is."""

    name: str

    def __call__(self, text: str) -> str:
        """The text to go on with."""
        ...


class Test(Protocol):
    """Decides about a text, perhaps by what came before it; texts come in their order, each once."""

    name: str

    def __call__(self, text: str) -> str:
        """Why it has to go; empty = it stays."""
        ...


def missing(package: str, what: str) -> DataError:
    """The error for a library that is not installed."""
    return DataError(f"{what} needs {package}, not installed here: pip install 'sfumato[data]'")
