"""The weights halfway between what a training in full began with and its end, as a checkpoint.

They are often better than either where what is asked differs from what was taught (Wortsman et al., "Robust fine-tuning
of zero-shot models", 2022): both lie in one valley, and halfway is its middle.

    python tools/halfway.py RUN/final BASE OUT
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from agvas_runtime.errors import EngineError, InputError
from agvas_train.checkpoint import read_info, require_new, write_checkpoint
from agvas_train.weights.reader import in_memory
from agvas_train.weights.store import read_weights, weights_sha256


def halfway(end: Path, base: Path, out: Path) -> None:
    """Write the checkpoint.

    Args:
        end: of a run, with its own provenance.
        base: the checkpoint that the run was started from.
        out: a folder that is not there yet.

    Raises:
        InputError: the run began with other weights, has other tensors, or a folder is no checkpoint.
        EngineError: a file cannot be written.
    """
    require_new(out)
    info, found = read_info(end), weights_sha256(base)
    train = info.provenance.get("train") or {}
    expected = train.get("base_sha256")
    if found != expected:
        raise InputError(f"{base}: found weights {found}, expected those that {end} began with: {expected}")
    first, last = read_weights(base), read_weights(end)
    if {name: each.shape for name, each in first.items()} != {name: each.shape for name, each in last.items()}:
        raise InputError(f"{end}: found other tensors than in {base}, expected the same names and shapes")
    middle = {name: ((first[name].read().double() + each.read().double()) / 2) for name, each in last.items()}
    tensors = {name: tensor.to(last[name].dtype) for name, tensor in middle.items()}
    made = replace(info, provenance={**info.provenance, "halfway_from_base": True})
    write_checkpoint(made, in_memory(tensors), out)


def main() -> None:
    """Take three folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    try:
        halfway(chosen.end, chosen.base, chosen.out)
    except (EngineError, InputError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
