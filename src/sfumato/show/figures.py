"""The line of figures below a text: how far it is, and what it has cost."""

from dataclasses import dataclass

from rich.text import Text

from sfumato.show.colour import confidence_colour

_BAR = 16  # cells
_SHADES = 6


@dataclass(frozen=True)
class Figures:
    """What a row has cost so far."""

    step: int
    nfe: int
    written: int
    """Tokens, up to and with the end of the text."""
    wanted: int
    """Written and open ones."""
    seconds: float
    """In the model, not in drawing."""

    def live(self, width: int) -> Text:
        """The line while the text is being written: a bar, and figures that keep their places."""
        share = self.written / max(1, self.wanted)
        full = int(share * _BAR)
        bar = Text("━" * full).append("━" * (_BAR - full), "dim")
        is_open = f"{100 * (1 - share):3.0f}% open"
        cost = (f"step {self.step:<3d}", f"NFE {self.nfe:<3d}", f"TPF {self._tpf:<4.1f}", self._rate)
        return _fit([bar, *_dim(is_open, *cost)], width)

    def final(self, width: int, title: str, basic: bool = False) -> Text:
        """The line under a finished text: what it cost, and what the (basic) colours mean."""
        amount = (f"{self.written} tokens", f"{self.step} steps")
        cost = (f"NFE {self.nfe}", f"TPF {self._tpf:.1f}", self._rate)
        legend = Text("unsure ", "dim")
        for i in range(_SHADES):
            legend.append("━", f"not dim {confidence_colour(i / (_SHADES - 1), basic)}")
        return _fit([*_dim(*[title] * bool(title), *amount, *cost), legend.append(" sure")], width)

    @property
    def _tpf(self) -> float:
        return self.written / max(1, self.nfe)

    @property
    def _rate(self) -> str:
        return f"{self.written / self.seconds:.0f} tokens/s" if self.seconds > 0 else "0 tokens/s"


def _dim(*parts: str) -> list[Text]:
    return [Text(part, "dim") for part in parts]


def _fit(parts: list[Text], width: int) -> Text:
    """As many of the parts as fit a line."""
    line = Text()
    for part in parts:
        gap = "  " * bool(line)
        if line.cell_len + len(gap) + part.cell_len > width:
            break
        line.append(gap).append_text(part)
    return line
