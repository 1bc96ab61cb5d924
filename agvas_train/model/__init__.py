"""The networks of AG-VAS, one file each; every size stands in `build.py`."""

from agvas_train.model.agvas import AGVAS, Visual
from agvas_train.model.build import FROM_SCRATCH, PRESETS, build_agvas
from agvas_train.model.config import ModelConfig

__all__ = ["AGVAS", "FROM_SCRATCH", "PRESETS", "ModelConfig", "Visual", "build_agvas"]
