"""What all pictures share: their style, how a model is drawn, and the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.summary import Row, Run, Table

OURS = "msft"
# Okabe and Ito's palette, distinct for the common forms of colour blindness, without yellow (too pale on white) and
# black (which is the truth); Tol's indigo instead.
RED, BLUE, GREEN, PINK, SKY, ORANGE, INDIGO = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#332288",
)
COLOURS = (BLUE, GREEN, PINK, SKY, ORANGE, INDIGO, RED)
# The shape says what kind of model it is, so that no picture rests on colour alone.
KINDS = {
    "*": {OURS: RED},
    "o": {"full": BLUE, "linear_probe": GREEN, "prompt": PINK, "lora": SKY, "adalora": ORANGE},  # finetuned
    # trained from nothing
    "s": {"dlinear": INDIGO, "patchtst": PINK, "itransformer": GREEN, "timemixer": ORANGE, "scratch": BLUE},
    "^": {"zero_shot": GREEN, "fracast": SKY, "chronos2": PINK, "seasonal_naive": INDIGO},  # not trained
}
MORE_MARKERS = "DvPXdph"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "darts-msft",  # else the ids of an SVG's parts are drawn anew each time
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture with the runs that it shows. Without `figure` it was left out, and the caption says why."""

    name: str
    caption: str
    runs: Sequence[Run]
    figure: Figure | None = None

    def data(self, kind: str) -> bytes:
        """The bytes of a "png" or "svg" file: the same for the same results and versions."""
        if self.figure is None:
            raise ValueError(f"the picture {self.name} was left out: {self.caption}")
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            metadata = {"Date": None} if kind == "svg" else {}  # an SVG would hold the time of writing
            self.figure.savefig(buffer, format=kind, dpi=200, bbox_inches="tight", metadata=metadata)
        return buffer.getvalue()


@dataclass(frozen=True)
class Look:
    """How one model is drawn, the same in every picture of a table."""

    marker: str
    colour: str
    filled: bool

    def line(self, **changes: Any) -> dict[str, Any]:
        """Arguments for `Axes.plot`."""
        face = self.colour if self.filled else "white"
        size = 9 if self.marker == "*" else 5
        return {
            "marker": self.marker,
            "color": self.colour,
            "markerfacecolor": face,
            "markersize": size,
            "linestyle": "none",
            **changes,
        }


def looks(table: Table) -> dict[Row, Look]:
    """A model without options has its fixed look; the others get hollow markers in turn."""
    fixed = {model: Look(marker, colour, True) for marker, models in KINDS.items() for model, colour in models.items()}
    found: dict[Row, Look] = {}
    for row in table.rows:
        usual = fixed.get(row.model) if row.options == "{}" else None
        count = sum(not look.filled for look in found.values())
        marker = MORE_MARKERS[count // len(COLOURS) % len(MORE_MARKERS)]
        hollow = Look(marker, COLOURS[count % len(COLOURS)], False)
        found[row] = hollow if usual is None or usual in found.values() else usual
    return found


def plain(text: str) -> str:
    """The text without matplotlib's mathematics."""
    return text.replace("$", r"\$")
