"""What runs a graph. An engine knows one graph and nothing of images, prompts or verdicts."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]


class Engine(Protocol):
    """One compiled graph."""

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run the graph: input name to array -> output name to array. Raises EngineError naming the graph."""
        ...
