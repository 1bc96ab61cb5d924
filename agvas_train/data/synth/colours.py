"""Colours of materials and the words for them."""

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# family -> ranges of hue (turns), saturation and value
_FAMILIES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "grey": ((0.0, 1.0), (0.0, 0.0), (0.15, 0.85)),
    "metal": ((0.05, 0.65), (0.0, 0.09), (0.25, 0.8)),
    "brass": ((0.07, 0.14), (0.25, 0.6), (0.45, 0.85)),
    "wood": ((0.04, 0.11), (0.25, 0.7), (0.3, 0.85)),
    "leather": ((0.02, 0.1), (0.2, 0.75), (0.12, 0.7)),
    "stone": ((0.0, 0.7), (0.0, 0.18), (0.25, 0.8)),
    "earth": ((0.01, 0.12), (0.1, 0.55), (0.25, 0.75)),
    "vivid": ((0.0, 1.0), (0.3, 0.95), (0.25, 0.95)),
    "pale": ((0.0, 1.0), (0.0, 0.2), (0.65, 0.97)),
    "dark": ((0.0, 1.0), (0.0, 0.3), (0.02, 0.2)),
    "rust": ((0.02, 0.09), (0.5, 0.9), (0.2, 0.6)),
    "board": ((0.28, 0.62), (0.4, 0.9), (0.12, 0.5)),
}


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB float32 [3] in [0,1] of a hue in turns, saturation and value in [0,1]."""
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return (value * (1 - saturation + saturation * np.clip(wheel, 0, 1))).astype(np.float32)


def pick(rng: np.random.Generator, *families: str) -> Colour:
    """A random colour of one of the families, RGB float32 [3] in [0,1]."""
    ranges = _FAMILIES[families[int(rng.integers(len(families)))]]
    hue, saturation, value = (float(rng.uniform(low, high)) for low, high in ranges)
    return hsv(hue, saturation, value)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or brighter, clipped to [0,1]."""
    return np.clip(colour * np.float32(factor), 0.0, 1.0)


def over(base: NDArray[np.float32], field: NDArray[np.float32], paint: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB [H,W,3]: `base` where the field [H,W] is 0, `paint` where it is 1; each a colour [3] or a picture [H,W,3].

    Channel by channel, since numpy is slow along an axis of three.
    """
    out = np.empty((*field.shape, 3), np.float32)
    for channel in range(3):
        plane = field * (paint[..., channel] - base[..., channel])
        np.add(plane, base[..., channel], out=out[..., channel])
    return out


def blend(field: NDArray[np.float32], low: Colour, high: Colour) -> NDArray[np.float32]:
    """RGB [H,W,3]: the colour `low` where the field is 0, `high` where it is 1."""
    return over(low, field, high)


def times(base: NDArray[np.float32], field: NDArray[np.float32]) -> NDArray[np.float32]:
    """A colour [3] or a picture [H,W,3] times a field [H,W]."""
    out = np.empty((*field.shape, 3), np.float32)
    for channel in range(3):
        np.multiply(base[..., channel], field, out=out[..., channel])
    return out


def largest(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest of the three channels [H,W]."""
    return np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])


def colour_word(colour: Colour) -> str:
    """The plain English word for an RGB colour in [0,1]."""
    high, low = float(colour.max()), float(colour.min())
    spread = high - low
    if high < 0.16:
        return "black"
    if spread < 0.09 or spread / high < 0.14:
        return "white" if high > 0.82 else "dark grey" if high < 0.35 else "light grey" if high > 0.62 else "grey"
    red, green, blue = (float(part) for part in colour)
    if high == red:
        hue = ((green - blue) / spread) % 6
    elif high == green:
        hue = (blue - red) / spread + 2
    else:
        hue = (red - green) / spread + 4
    if hue < 1.1 or hue > 5.8:
        if 0.15 < hue < 1.1 and high < 0.72:
            return "brown"
        return "red" if hue > 5.8 or hue < 0.35 else "orange"
    for limit, word in ((1.35, "yellow"), (2.6, "green"), (3.3, "cyan"), (4.4, "blue"), (5.2, "purple")):
        if hue < limit:
            return word
    return "pink"
