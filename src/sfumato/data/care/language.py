"""Which language a text is in.

`py3langid` (Lui and Baldwin 2012, "langid.py") knows about a hundred languages, offline and without chance. Of a
sentence of ten words it is right about 99 times in 100; of less it may be wrong, so short texts are not judged.
"""

import re
from functools import cache
from typing import Any

from sfumato.data.care.seam import missing

SHORTEST = 20  # letters below which nobody can tell
_LETTER = re.compile(r"[^\W\d_]")


class Languages:
    """Only texts in one of these languages stay, and those that are too short to tell."""

    name = "language"

    def __init__(self, allowed: tuple[str, ...] = ()):
        """Read the model of the languages.

        Args:
            allowed: ISO 639-1 codes, such as en, de; empty = all.

        Raises:
            DataError: `py3langid` is not installed.
            ValueError: a code that it does not know.
        """
        self._identifier = _identifier()
        known = sorted(self._identifier.labels)
        if strange := [code for code in allowed if code not in known]:
            raise ValueError(f"language: unknown code {strange[0]!r}; expected some of {' '.join(known)}")
        self._allowed = allowed

    def of(self, text: str) -> str:
        """The code of its language; "" where the text is too short to tell."""
        return self._identifier.classify(text)[0] if len(_LETTER.findall(text)) >= SHORTEST else ""

    def __call__(self, text: str) -> str:
        """Its language, if that is none of the allowed ones."""
        found = self.of(text) if self._allowed else ""
        return f"language {found}" if found and found not in self._allowed else ""


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise missing("py3langid", "telling languages apart") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
