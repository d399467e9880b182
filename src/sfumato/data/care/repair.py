"""Text that was decoded wrongly on its way here, such as `GrÃ¶ÃŸe` for `Größe`, is put right again.

`ftfy` (Speer 2019) finds out which wrong turns it took; it leaves alone what might be meant as it is.
"""

from sfumato.data.care.seam import missing


class Repair:
    """Undoes wrong decodings and HTML entities, removes control characters and composes accents (NFC)."""

    name = "repaired"

    def __init__(self) -> None:
        """Raises DataError where `ftfy` is not installed."""
        try:
            import ftfy
        except ImportError:
            raise missing("ftfy", "repairing the encoding") from None
        self._fix = ftfy.fix_text
        # Curly quotes, ligatures and wide letters are somebody's choice, not a mistake.
        self._settings = ftfy.TextFixerConfig(
            uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, explain=False
        )

    def __call__(self, text: str) -> str:
        """The text as it was meant."""
        return self._fix(text, self._settings)
