"""segment-anything as an oracle. Its `__init__` wants torchvision, which CPU-only environments may lack."""

import sys
import types
from importlib.util import find_spec
from pathlib import Path


def import_segment_anything() -> None:
    """Make `segment_anything.modeling.*` importable, with or without torchvision."""
    if "segment_anything" in sys.modules:
        return
    spec = find_spec("segment_anything")
    assert spec, "segment-anything is in the dev extra"
    if find_spec("torchvision"):
        return
    folder = Path(next(iter(spec.submodule_search_locations or [])))
    for name, path in (("segment_anything", folder), ("segment_anything.modeling", folder / "modeling")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
