"""Where a place of a grid is, as numbers that attention can compare (the embedded default's; ours)."""

import torch
from torch import Tensor

WAVES = 4
"""Of a place's code along each axis: half a wave over the grid, then twice as many each time."""
CODE = 4 * WAVES
"""Numbers of a code."""


def place_codes(height: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of the row and the column of each place, float32 [height * width, CODE].

    The product of two codes is largest for the same place and falls with the distance, on grids of any two sizes.
    """
    rates = torch.pi * 2.0 ** torch.arange(WAVES, device=device)
    rows = (torch.arange(height, device=device) + 0.5)[:, None] / height * rates
    columns = (torch.arange(width, device=device) + 0.5)[:, None] / width * rates
    rows = rows[:, None].expand(height, width, WAVES)
    columns = columns[None].expand(height, width, WAVES)
    return torch.cat((rows.sin(), rows.cos(), columns.sin(), columns.cos()), dim=2).flatten(0, 1)
