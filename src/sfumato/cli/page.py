"""`--html`: a page on which every step of what was written can be looked at."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.config import ConfigError

if TYPE_CHECKING:
    from sfumato.sample.language_model import LanguageModel
    from sfumato.show.html import Recording

SUFFIXES = (".html", ".htm")
_LONGEST_TITLE = 80


class Page:
    """The page that a command makes beside its texts."""

    def __init__(self, path: Path):
        """path: the file, replaced as a whole when the page is saved.

        Raises:
            ConfigError: it cannot be a page.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"--html: expected a file whose name ends in .html, got {str(path)!r}")
        if path.is_dir():
            raise ConfigError(f"--html: {path} is a folder; name a file")
        self.path = path
        self._recordings: list[Recording] = []

    def recording(self, model: "LanguageModel", title: str) -> "Recording":
        """What takes down the next text."""
        from sfumato.show.html import Recording

        recording = Recording(model.tokenizer.token_bytes, model.bundle.config.tokens.end, title)
        self._recordings.append(recording)
        return recording

    def save(self, text: str) -> None:
        """Write the page: all of it or nothing.

        Args:
            text: what the texts were made from.
        """
        from sfumato.show.html import trace_html

        title = " ".join(text.split()) or "Sfumato"
        title = title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            scratch.write_text(trace_html(self._recordings, title=title), encoding="utf-8")
            scratch.replace(self.path)
        finally:
            scratch.unlink(missing_ok=True)
