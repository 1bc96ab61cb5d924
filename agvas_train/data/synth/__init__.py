"""Procedural images of surfaces and parts with defect masks: `generate(seed, index)` is an endless stream."""

from agvas_train.data.synth.compose import generate
from agvas_train.data.synth.notes import Caption, DefectNote, Families, Sample, SurfaceNote, SynthConfig

__all__ = ["Caption", "DefectNote", "Families", "Sample", "SurfaceNote", "SynthConfig", "generate"]
