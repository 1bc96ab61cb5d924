"""Who answers: an endpoint, asked once and then once again, or the generator of the synthetic stream, who knows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_train.data.instruct.endpoint import Endpoint, EndpointConfig, Rejected, Unavailable
from agvas_train.data.instruct.pace import Pace
from agvas_train.data.instruct.pictures import boxed, data_uri, jpeg, painted, shrunk, shrunk_mask
from agvas_train.data.instruct.prompt import first_ask, second_ask
from agvas_train.data.instruct.rules import Fields, Refused, find_faults, read_answer
from agvas_train.data.instruct.tasks import Task

CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Pictures:
    """What is shown of a task."""

    image: NDArray[np.uint8]
    """RGB [H,W,3]."""
    mask: NDArray[np.bool_]
    """[H,W]."""
    normal: NDArray[np.uint8]
    """RGB [h,w,3], the most similar normal image."""

    def encoded(self, max_side: int) -> list[bytes]:
        """Images A, B and C as JPEG files with no side longer than this, in pixels."""
        image, mask = shrunk(self.image, max_side), shrunk_mask(self.mask, max_side)
        return [jpeg(picture) for picture in (boxed(image, mask), painted(image, mask), shrunk(self.normal, max_side))]


@dataclass
class Annotation:
    """What came of a task."""

    fields: Fields | None = None
    """None where no answer could be used."""
    faults: tuple[str, ...] = ()
    """What was wrong with the last answer that could not be used."""
    refused: list[str] = field(default_factory=list)
    """The answers that could not be used."""
    asks: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0
    """Answers of which the endpoint did not say how many tokens they took."""


class Annotator(Protocol):
    """Answers for an image; called by several threads."""

    model: str
    """Who answers, for the records."""

    def annotate(self, task: Task, pictures: Pictures) -> Annotation:
        """The answer for an image, used or refused; raises what Endpoint.complete does."""
        ...


class EndpointAnnotator:
    """Asks a vision model; what is wrong with its answer it may mend once."""

    def __init__(self, endpoint: Endpoint, max_side: int) -> None:
        self.model = endpoint.config.model
        self._endpoint, self._max_side = endpoint, max_side

    def annotate(self, task: Task, pictures: Pictures) -> Annotation:
        """See Annotator."""
        anomalous = bool(task.item.anomalous)
        messages = first_ask([data_uri(picture) for picture in pictures.encoded(self._max_side)], anomalous)
        result = Annotation()
        for _ in range(2):
            try:
                reply = self._endpoint.complete(messages)
            except (Rejected, Unavailable) as error:
                error.paid = result if result.asks else None
                raise
            result.asks += 1
            result.tokens_in += reply.tokens_in or 0
            result.tokens_out += reply.tokens_out or 0
            result.uncounted += reply.tokens_in is None or reply.tokens_out is None
            try:
                result.fields = read_answer(reply.text, anomalous)
                return result
            except Refused as refused:
                result.faults = refused.faults
            if reply.cut:
                result.faults = ("the answer is too long: it was cut off at the most tokens allowed",)
            result.refused.append(reply.text)
            messages = second_ask(messages, reply.text, result.faults)
        return result


class SyntheticAnnotator:
    """Takes the captions that `agvas-data synth` wrote beside its images."""

    model = "synthetic"

    def __init__(self, root: Path) -> None:
        """Raises InputError where the folder has no captions."""
        file = root / CAPTIONS
        if not file.is_file():
            raise InputError(f"{file}: no such file; --annotator synthetic needs a folder made by agvas-data synth")
        self._captions: dict[str, Fields] = {}
        for number, line in enumerate(read_bytes(file).splitlines(), 1):
            try:
                caption = json.loads(line)
                self._captions[caption["image"]] = Fields(**{name: caption[name] for name in Fields.model_fields})
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}: line {number} is no caption of agvas-data synth") from None

    def annotate(self, task: Task, pictures: Pictures) -> Annotation:
        """See Annotator."""
        fields = self._captions.get(task.item.name)
        faults = find_faults(fields, bool(task.item.anomalous)) if fields else ["the captions do not have this image"]
        return Annotation(None if faults else fields, tuple(faults), asks=1)


def open_annotator(config: EndpointConfig | None, root: Path, rate: float | None, max_side: int) -> Annotator:
    """Who answers for a data set: an endpoint, at most so many requests a minute, or without one its own captions.

    Raises InputError where the folder has no captions.
    """
    return EndpointAnnotator(Endpoint(config, Pace(rate)), max_side) if config else SyntheticAnnotator(root)
