"""What an engine process is asked about a frame, what it says of it, and what it is. Nothing here runs anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.modes import Request
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.writer import Decoding

_REQUEST, _RECIPE, _DECODING = Request(), Recipe(), Decoding()

PAYS = 0.95
"""What a frame may cost among more, beside its cost among fewer, for more to be worth it."""
TOKENS_A_JOB = 128
"""An answer that may be longer is written in turns of a token, so that other frames need not wait for its end."""


@dataclass(frozen=True)
class Task:
    """What is asked about a frame. Hashable."""

    request: Request = _REQUEST
    recipe: Recipe = _RECIPE
    decoding: Decoding = _DECODING
    probability: bool = False
    """Whether the probability map (and every group's) is wanted, besides the mask."""

    @property
    def long(self) -> bool:
        """Whether the answer may be so long that it is written in turns."""
        return (self.decoding.max_new_tokens or self.request.mode.token_limit) > TOKENS_A_JOB

    @property
    def batch_key(self) -> tuple[Request, Decoding, float | None]:
        """Frames of equal keys can be segmented together."""
        return self.request, self.decoding, self.recipe.alpha


@dataclass(frozen=True)
class FrameResult:
    """What an engine process says of a frame; mask and map lie in the frame's block.

    The reply is ready but for what the front process knows: after a frame the front's caches are cold, every line of
    code costs it more than it costs the engine.
    """

    reply: bytes
    """The serialised SegmentResponse, without pictures, model and identity."""
    verdict: Verdict
    total_ms: float
    """The engine's time; of frames that were segmented together, that of all."""
    threshold: float
    """See `Result`, as `group_maps`."""
    group_maps: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class EngineSpec:
    """What an engine process loads. Sent to it at its start."""

    bundle: Path | None = None
    """The embedded bundle where None."""
    engine: str = "ort"
    """ort, ort-cuda, tensorrt or auto, see `engines.choice`."""
    threads: int | None = None
    """Of the engine on the CPU; all cores where None."""
    warm: tuple[Request, ...] = ()
    """Requests whose first frame is to be as fast as the next ones; the default one always is."""
    max_batch: int = 4
    """Most frames that may be segmented together."""
    device: str = ""
    """CUDA_VISIBLE_DEVICES of the process; the server's own where empty."""
    bundle_sha256: str = ""
    """What the bundle must be, where that is known: another one serves after a swap only."""


@dataclass(frozen=True)
class EngineFacts:
    """What an engine process says once it is ready."""

    pid: int
    model_reply: bytes
    """The serialised GetModelResponse."""
    name: str
    bundle_sha256: str
    threshold: float
    ms_per_frame: dict[int, float] = field(default_factory=dict)
    """Frames at once -> milliseconds a frame, measured at the start; 1 is always there."""

    @property
    def best_batch(self) -> int:
        """How many waiting frames are best segmented together: more than one only where it saves 5 % a frame."""
        best = min(self.ms_per_frame, key=lambda count: self.ms_per_frame[count], default=1)
        alone = self.ms_per_frame.get(1, 0.0)
        return best if self.ms_per_frame.get(best, alone) <= PAYS * alone else 1
