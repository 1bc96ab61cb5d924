"""VisA-D&R, the benchmark of detection and reasoning: yes or no, and open questions. No masks, for testing only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agvas_train.data.sets.adapter import Counts
from agvas_train.data.sets.conversations import RecordsOfImages
from agvas_train.data.sets.json_ranges import records
from agvas_train.data.sets.reading import below, naming
from agvas_train.data.sets.sample import Anomaly, Message, Sample, Source


@dataclass(frozen=True)
class VisaDetection(RecordsOfImages):
    """VisA-D&R's test_data.json: [{image, anomaly}], to be asked whether there is an anomaly."""

    def sample(self, index: int) -> Sample:
        """One image and whether it is anomalous; there are no masks."""
        source = f"{self.file}, record {index}"
        with naming(source):
            record = records(self.file)[index]
            image, present = below(self.images, record["image"], source), _yes(record["anomaly"])
        anomaly = Anomaly(present, None, "", "anomaly" if present else "good")
        return Sample((image,), Source(self.name, self.file, index), anomaly=anomaly)

    def describe(self) -> Counts:
        """Images, normal and anomalous."""
        with naming(self.file):
            anomalous = sum(_yes(records(self.file)[index]["anomaly"]) for index in range(len(self)))
        return Counts(len(self), len(self), 0, len(self) - anomalous, anomalous)


def _yes(value: Any) -> bool:
    """True, 1 and "yes"; False, 0 and "no"."""
    answers = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).lower() not in answers:
        raise ValueError(f"anomaly: found {value!r}, expected one of {', '.join(answers)}")
    return answers[str(value).lower()]


@dataclass(frozen=True)
class VisaReasoning(RecordsOfImages):
    """VisA-D&R's visa_dr.json: [{image, questions}]; what is answered is for others to judge."""

    def sample(self, index: int) -> Sample:
        """One image and its questions, without answers."""
        source = f"{self.file}, record {index}"
        with naming(source):
            record = records(self.file)[index]
            image = below(self.images, record["image"], source)
            questions = tuple(Message("human", str(text)) for text in record["questions"])
        return Sample((image,), Source(self.name, self.file, index), conversation=questions)

    def describe(self) -> Counts:
        """As many images as records."""
        return Counts(len(self), len(self))
