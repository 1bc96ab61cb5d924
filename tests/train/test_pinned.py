"""Batches in pinned memory, which a GPU fetches beside other work."""

import pytest
import torch

from agvas_train.checkpoint import Checkpoint
from agvas_train.data.conversation import Task
from agvas_train.data.loading import start_loading
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth_turns import SynthTurns


@pytest.mark.gpu
def test_a_gpu_gets_what_the_loading_processes_made_from_pinned_memory(small: Checkpoint) -> None:
    turns = SynthTurns(small.templates, {Task.DIRECT: 1.0}, SynthConfig(normal_share=0.5), 3)
    options = {"config": small.config.model, "prompter": small.prompter, "batch_size": 4, "micro_batch": 4}
    stream = TurnStream(turns, start=0, stop=2, **options)
    for step, batch in enumerate(start_loading(stream, workers=2, pin=True)):
        assert batch.pixel.is_pinned()
        assert batch.texts.is_pinned()
        assert all(samples.is_pinned() for samples in batch.anchor_samples.values())
        assert torch.equal(batch.to(torch.device("cuda")).pixel.cpu(), stream.batch(step).pixel)
