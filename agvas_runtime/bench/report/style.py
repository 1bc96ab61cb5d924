"""How every plot looks: size, colours, small print. Drawn by Matplotlib's objects alone, no state of pyplot's."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agvas_runtime.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH_IN, DPI = 9.0, 200
"""1,800 pixels, to be shown at half of that."""
INK, FAINT, GRID, REST = "#222222", "#6b6b6b", "#e3e3e3", "#d4d4d4"
BAD = "#c1272d"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9", "#332288", "#882255")
"""Contenders, told apart by colour-blind eyes too (after Okabe and Ito, and Tol)."""
PARTS = ("#332288", "#88ccee", "#44aa99", "#117733", "#cc6677", "#ddcc77", "#999933", "#882255", "#aa4499", "#6699cc")
"""Stages (Tol's muted)."""
LOG_FROM = 8.0
"""Positions that are further apart than this many times are shown on a logarithmic axis."""


@dataclass(frozen=True)
class Plot:
    """A picture, what it shows for who cannot see it, and what can be read there."""

    png: bytes
    alt: str
    caption: str


def check_matplotlib() -> None:
    """Import Matplotlib. Raises EngineError naming the extra where it is not installed, or why it does not import."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except Exception as error:  # a package that does not fit the others fails in any way
        if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib":
            raise EngineError(
                "matplotlib is not installed, which a report's plots need: pip install 'agvas[report]'"
            ) from None
        raise EngineError(f"matplotlib, which a report's plots need, cannot be imported: {error}") from None


def new_figure(height_in: float, title: str, subtitle: str) -> Figure:
    """An empty page-wide figure with a heading."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    figure.suptitle(f"{literal(title)}\n", x=0.012, ha="left", fontsize=12.5, fontweight="bold", color=INK)
    figure.text(0.012, 1 - 0.33 / height_in, literal(subtitle), fontsize=9, color=FAINT, va="top")
    return figure


def to_png(figure: Figure, small_print: str) -> bytes:
    """The figure as a PNG, with the small print below it."""
    lines = textwrap.wrap(small_print, 172) or [""]
    figure.supxlabel(literal("\n".join(lines)), x=0.012, ha="left", fontsize=7, color=FAINT)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks shows as boxes
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def tidy(axes: Axes, x_label: str = "", y_label: str = "", grid: str = "x") -> None:
    """Small type, no frame, light grid lines of one axis or `both`."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")
    axes.tick_params(labelsize=8.5, colors=INK, length=0, which="both")
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)


def log_if_wide(axes: Axes, axis: str, values: Sequence[float]) -> bool:
    """Make an axis of positions logarithmic where its values lie far apart; True where that is done."""
    positive = [value for value in values if value > 0]
    if not positive or len(positive) < len(values) or max(positive) / min(positive) < LOG_FROM:
        return False
    span = (min(positive) / 1.2, max(positive) * 1.2)
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": span})
    found = axes.xaxis if axis == "x" else axes.yaxis
    found.set_label_text(f"{found.get_label_text()}, logarithmic")
    _plain_numbers(found, span[1] / span[0])
    return True


def _plain_numbers(axis: Axis, span: float) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 1000 else (1.0,), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def after_bar(axes: Axes, end: float, row: float, text: str) -> None:
    """A text right of a bar's end."""
    axes.annotate(
        literal(text), xy=(end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def label_right(
    axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], colours: Sequence[str], height_in: float
) -> None:
    """Names right of the axes, as high as their points where there is room, tied to them by a line.

    Call it when the axes have their limits; they are `height_in` high or so.
    """
    up = axes.transData + axes.transAxes.inverted()
    heights = apart([float(up.transform(point)[1]) for point in points], 0.18 / height_in)
    for point, height, label, colour in zip(points, heights, labels, colours, strict=True):
        axes.annotate(
            literal(label), xy=point, xytext=(1.02, height), textcoords="axes fraction", va="center", fontsize=8.5,
            color=darker(colour), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linestyle": ":", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5),
                        "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip


def colour_of(place: int) -> str:
    """Of the contender at this place."""
    return SERIES[place % len(SERIES)]


def dash_of(place: int) -> str:
    """Line style of the contender at this place: dashed where its colour comes a second time."""
    return ("-", "--", ":")[place // len(SERIES) % 3]


def darker(colour: str) -> Any:
    """The colour as text has to be, to be legible on white."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    light = math.sqrt(0.3 * red**2 + 0.59 * green**2 + 0.11 * blue**2)
    scale = min(1.0, 0.5 / max(light, 1e-6))
    return (red * scale, green * scale, blue * scale)


def text_on(colour: str) -> str:
    """White or dark, whichever is legible on the colour."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK


def literal(text: str) -> str:
    """The text with its dollar signs as they are: two of them would begin a formula."""
    return text.replace("$", r"\$")


def apart(wanted: Sequence[float], distance: float) -> list[float]:
    """Positions as near to the wanted ones as can be, in their order, at least `distance` from one another."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    blocks: list[list[int]] = []

    def first_of(block: list[int]) -> float:
        middle = sum(wanted[place] for place in block) / len(block)
        return middle - distance * (len(block) - 1) / 2

    for place in order:
        blocks.append([place])
        while len(blocks) > 1:
            before, last = blocks[-2], blocks[-1]
            if first_of(before) + distance * len(before) <= first_of(last):
                break
            blocks[-2:] = [before + last]
    found = [0.0] * len(wanted)
    for block in blocks:
        start = first_of(block)
        for number, place in enumerate(block):
            found[place] = start + number * distance
    return found
