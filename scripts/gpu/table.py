"""What was measured beside its target and its floor by arithmetic: reads the JSON files of a folder, all of one GPU.

python scripts/gpu/table.py figures [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DEVICE, TENSORS = "   peak of the device (or reserved), GB", "   peak of what tensors hold, GB"
PLACES = (
    ("7B, 16 bits: whole frame, ms", "7b", "frame/frame/ms", 45.0, "33-37"),
    ("   with copies from and to the host", "7b", "frame/frame_with_copies/ms", None, ""),
    ("   encoders one after the other (no walk, no decoder)", "7b", "frame/encoders_one_after_the_other/ms", None, ""),
    ("   the same side by side", "7b", "frame/first_graph/ms", None, ""),
    ("   answers equal to decoding token by token", "7b", "checks/equal", "all", ""),
    ("   smallest top-2 margin", "7b", "checks/smallest_margin", None, ""),
    (DEVICE, "7b", "memory/memory/device_gb|reserved_gb", 18.0, ""),
    (TENSORS, "7b", "memory/memory/peak_gb", None, "16.4"),
    ("7B, LLM in fp8: whole frame, ms", "7b", "fp8/frame/ms", 32.0, "23"),
    ("   pass, ms", "7b", "fp8/pass/ms", None, ""),
    (DEVICE, "7b", "fp8/memory/device_gb|reserved_gb", 12.0, ""),
    (TENSORS, "7b", "fp8/memory/peak_gb", None, "9.9"),
    ("7B, everything in fp8: whole frame, ms", "7b", "fp8_all/frame/ms", 27.0, "19"),
    (DEVICE, "7b", "fp8_all/memory/device_gb|reserved_gb", None, ""),
    (TENSORS, "7b", "fp8_all/memory/peak_gb", None, "8.3"),
    ("7B, LLM in int4, rest fp8: whole frame, ms", "7b", "int4_all/frame/ms", None, ""),
    (DEVICE, "7b", "int4_all/memory/device_gb|reserved_gb", 7.0, ""),
    (TENSORS, "7b", "int4_all/memory/peak_gb", None, "5.3"),
    ("7B, LLM in int8, rest fp8: pass, ms", "7b", "int8_all/pass/ms", None, ""),
    (DEVICE, "7b", "int8_all/memory/device_gb|reserved_gb", None, ""),
    (TENSORS, "7b", "int8_all/memory/peak_gb", None, ""),
    ("7B, 16 bits: pass with the trie, ms", "7b", "passes/trie/compiled_graph/ms", None, ""),
    ("   trie over plain prefill, ms", "7b", "passes/trie_over_none_ms", 6.0, "3.7"),
    ("   cut trie over plain prefill, ms", "7b", "passes/cut_over_none_ms", 1.5, ""),
    ("   pass in two parts, ms", "7b", "passes/trie_split/compiled_graph/ms", None, ""),
    ("   pass by one mask, ms", "7b", "passes/trie_one/compiled_graph/ms", None, ""),
    ("   pass by blocks, ms", "7b", "passes/trie_flex/compiled_graph/ms", None, ""),
    ("SAM ViT-H, ms", "7b", "parts/pixel_encoder/compiled_graph/ms", 13.0, "7.6"),
    ("   the library's, eager, ms", "7b", "parts/pixel_encoder/eager/ms", None, ""),
    ("SigLIP and projector, ms", "7b", "parts/semantic_encoder/compiled_graph/ms", None, "0.9"),
    ("SPAM, ms", "7b", "parts/spam/compiled_graph/ms", None, "0.1"),
    ("Token Refiner and AGMD, ms", "7b", "parts/decoder/compiled_graph/ms", None, ""),
    ("0.5B + SAM ViT-B, 16 bits: whole frame, ms", "0.5b", "frame/frame/ms", 8.0, "3.8"),
    ("   answers equal to decoding token by token", "0.5b", "checks/equal", "all", ""),
    (DEVICE, "0.5b", "memory/memory/device_gb|reserved_gb", None, ""),
    (TENSORS, "0.5b", "memory/memory/peak_gb", None, ""),
    ("   SAM ViT-B, ms", "0.5b", "parts/pixel_encoder/compiled_graph/ms", None, ""),
    ("   pass, ms", "0.5b", "passes/trie/compiled_graph/ms", None, ""),
    ("7B reference route, ms", "7b", "reference/ms", None, ""),
    ("7B compiled-decode route, ms", "7b-routes", "compiled-decode/ms", None, ""),
    ("0.5B reference route, ms", "0.5b", "reference/ms", None, ""),
    ("0.5B compiled-decode route, ms", "0.5b-routes", "compiled-decode/ms", None, ""),
    ("0.5B, frames a second, 1 at once", "0.5b-throughput", "throughput_1/frames_a_second", None, ""),
    ("   4 at once", "0.5b-throughput", "throughput_4/frames_a_second", None, ""),
)
"""What, in which file, where in its steps (`a|b`: b where there is no a), the target on an H200 or "all" that were
tried, the floor by arithmetic."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every place with the number found, or None and the `failure` if it is known; `met` where there is a target.

    `gpu` is the folder's, None without one; `attention` is the figure's, where the file says it. Raises ValueError
    where the files are of several GPUs.
    """
    files = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    of = {name: file.get("gpu", {}).get("name") for name, file in files.items()}
    if len(set(of.values())) > 1:
        told = ", ".join(f"{name}.json of {gpu or 'no GPU'}" for name, gpu in of.items())
        raise ValueError(f"{folder}: found {told}, expected one GPU a folder")
    gpu = next(iter(of.values()), None)
    found = []
    for what, name, place, target, floor in PLACES:
        value: Any = files.get(name, {}).get("steps", {})
        failure = None if name in files else f"no {name}.json"
        count = attention = None
        for keys in place.split("/"):
            held = value if isinstance(value, dict) else {}
            if "error" in held or "put_off" in held:
                failure = held.get("error") or held["put_off"]
            count, attention = held.get("of"), held.get("attention", attention)
            value = next((held[key] for key in keys.split("|") if key in held), None)
        number = value if isinstance(value, int | float) else None
        row = {"what": what, "found": number, "target": target, "floor": floor, "place": f"{name}.json {place}"}
        row |= {"gpu": gpu, "attention": attention}
        if target == "all":
            row["of"] = count
        if target is not None and number is not None:
            row["met"] = number == count if target == "all" else number <= target
        if number is None and failure:
            row["failure"] = failure
        found.append(row)
    return found


def text(found: list[dict[str, Any]]) -> str:
    """The rows as a table, "-" for what was not measured, with the reason if it is known; the attention in brackets."""
    lines = [found[0]["gpu"] or "no GPU"]
    lines += [f"{'':58s} {'measured':>9s} {'target':>7s} {'floor by arithmetic':>19s}"]
    for row in found:
        number = "-" if row["found"] is None else f"{row['found']:.2f}"
        if "of" in row and row["found"] is not None:
            number = f"{row['found']} of {row['of']}"
        target = row["target"] or ""
        target = f"{target:.1f}" if isinstance(target, float) else target
        note = f"({row['attention']}) " if row["attention"] else ""
        note += {True: "met", False: "MISSED"}.get(row.get("met", ""), "")
        note = row["failure"][:60] if "failure" in row else note
        lines.append(f"{row['what']:58s} {number:>9s} {target:>7s} {row['floor']:>19s} {note}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Print it; exit code 2 where the folder is of several GPUs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found = rows(options.folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(json.dumps(found, indent=1) if options.json else text(found))


if __name__ == "__main__":
    main()
