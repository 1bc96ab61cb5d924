"""What was measured beside its target and its floor by arithmetic: reads the JSON files of a folder.

python scripts/gpu/table.py figures [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PLACES = (
    ("7B, 16 bits: whole frame, ms", "7b", "frame/frame/ms", 45.0, "33-37"),
    ("   with copies from and to the host", "7b", "frame/frame_with_copies/ms", None, ""),
    ("   encoders one after the other (no walk, no decoder)", "7b", "frame/encoders_one_after_the_other/ms", None, ""),
    ("   the same side by side", "7b", "frame/first_graph/ms", None, ""),
    ("   answers equal to decoding token by token", "7b", "checks/equal", "all", ""),
    ("   smallest top-2 margin", "7b", "checks/smallest_margin", None, ""),
    ("   peak memory, GB", "7b", "memory/memory/peak_gb", 18.0, "16.4"),
    ("7B, LLM in fp8: whole frame, ms", "7b", "fp8/frame/ms", 32.0, "23"),
    ("   pass, ms", "7b", "fp8/pass/ms", None, ""),
    ("   peak memory, GB", "7b", "fp8/memory/peak_gb", 12.0, "9.9"),
    ("7B, everything in fp8: whole frame, ms", "7b", "fp8_all/frame/ms", 27.0, "19"),
    ("   peak memory, GB", "7b", "fp8_all/memory/peak_gb", None, "8.3"),
    ("7B, LLM in int4, rest fp8: whole frame, ms", "7b", "int4_all/frame/ms", None, ""),
    ("   peak memory, GB", "7b", "int4_all/memory/peak_gb", 7.0, "5.3"),
    ("7B, LLM in int8, rest fp8: pass, ms", "7b", "int8_all/pass/ms", None, ""),
    ("   peak memory, GB", "7b", "int8_all/memory/peak_gb", None, ""),
    ("7B, 16 bits: pass with the trie, ms", "7b", "passes/trie/compiled_graph/ms", None, ""),
    ("   trie over plain prefill, ms", "7b", "passes/trie_over_none_ms", 6.0, "3.7"),
    ("   cut trie over plain prefill, ms", "7b", "passes/cut_over_none_ms", 1.5, ""),
    ("   pass by one mask, ms", "7b", "passes/trie_one/compiled_graph/ms", None, ""),
    ("   pass by blocks, ms", "7b", "passes/trie_flex/compiled_graph/ms", None, ""),
    ("SAM ViT-H, ms", "7b", "parts/pixel_encoder/compiled_graph/ms", 13.0, "7.6"),
    ("   the library's, eager, ms", "7b", "parts/pixel_encoder/eager/ms", None, ""),
    ("SigLIP and projector, ms", "7b", "parts/semantic_encoder/compiled_graph/ms", None, "0.9"),
    ("SPAM, ms", "7b", "parts/spam/compiled_graph/ms", None, "0.1"),
    ("Token Refiner and AGMD, ms", "7b", "parts/decoder/compiled_graph/ms", None, ""),
    ("0.5B + SAM ViT-B, 16 bits: whole frame, ms", "0.5b", "frame/frame/ms", 8.0, "3.8"),
    ("   answers equal to decoding token by token", "0.5b", "checks/equal", "all", ""),
    ("   peak memory, GB", "0.5b", "memory/memory/peak_gb", None, ""),
    ("   SAM ViT-B, ms", "0.5b", "parts/pixel_encoder/compiled_graph/ms", None, ""),
    ("   pass, ms", "0.5b", "passes/trie/compiled_graph/ms", None, ""),
    ("7B reference route, ms", "7b", "reference/ms", None, ""),
    ("7B compiled-decode route, ms", "7b-routes", "compiled-decode/ms", None, ""),
    ("0.5B reference route, ms", "0.5b", "reference/ms", None, ""),
    ("0.5B compiled-decode route, ms", "0.5b-routes", "compiled-decode/ms", None, ""),
    ("0.5B, frames a second, 1 at once", "0.5b-throughput", "throughput/1/frames_a_second", None, ""),
    ("   4 at once", "0.5b-throughput", "throughput/4/frames_a_second", None, ""),
    ("   8 at once", "0.5b-throughput", "throughput/8/frames_a_second", None, ""),
)
"""What, in which file, where in its steps, the target on an H200 or "all" that were tried, the floor by arithmetic."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every place with the number found, or None and the `failure` if it is known; `met` where there is a target."""
    files = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    found = []
    for what, name, place, target, floor in PLACES:
        value: Any = files.get(name, {}).get("steps", {})
        failure = None if name in files else f"no {name}.json"
        count = None
        for key in place.split("/"):
            if isinstance(value, dict) and ("error" in value or "put_off" in value):
                failure = value.get("error") or value.get("put_off")
            count = value.get("of") if isinstance(value, dict) else None
            value = value.get(key) if isinstance(value, dict) else None
        number = value if isinstance(value, int | float) else None
        row = {"what": what, "found": number, "target": target, "floor": floor, "place": f"{name}.json {place}"}
        if target == "all":
            row["of"] = count
        if target is not None and number is not None:
            row["met"] = number == count if target == "all" else number <= target
        if number is None and failure:
            row["failure"] = failure
        found.append(row)
    return found


def text(found: list[dict[str, Any]]) -> str:
    """The rows as a table, "-" for what was not measured, with the reason if it is known."""
    lines = [f"{'':58s} {'measured':>9s} {'target':>7s} {'floor by arithmetic':>19s}"]
    for row in found:
        number = "-" if row["found"] is None else f"{row['found']:.2f}"
        if "of" in row and row["found"] is not None:
            number = f"{row['found']} of {row['of']}"
        target = row["target"] or ""
        target = f"{target:.1f}" if isinstance(target, float) else target
        note = {True: "met", False: "MISSED"}.get(row.get("met", ""), "")
        note = row["failure"][:60] if "failure" in row else note
        lines.append(f"{row['what']:58s} {number:>9s} {target:>7s} {row['floor']:>19s} {note}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = rows(options.folder)
    print(json.dumps(found, indent=1) if options.json else text(found))


if __name__ == "__main__":
    main()
