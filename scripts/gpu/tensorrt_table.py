"""A table of what tensorrt.sh left: tensorrt_table.py OUT NAME..."""

import json
import sys
from pathlib import Path

HEADER = ("graph", "ms replay", "ms run", "build s", "rel. difference", "finite", "plan MB", "context MB")


def row(folder: Path, name: str) -> "tuple[str, ...]":
    """One graph's line."""
    figures, failure = folder / f"{name}.json", folder / f"{name}.txt"
    if not figures.is_file():
        lines = failure.read_text("utf-8", "replace").split("\n") if failure.is_file() else ["not run"]
        return name, " | ".join(line for line in (lines[0], *lines[1:][-2:]) if line)[:300]
    found = json.loads(figures.read_text("utf-8"))
    worst = max((each["relative"] for each in (found["differences"] or {}).values()), default=float("nan"))
    return (
        name,
        f"{found['replay_ms']:.3f}",
        f"{found['run_ms']:.3f}",
        f"{found['build_seconds']:.1f}",
        f"{worst:.2e}",
        "yes" if all(found["finite"].values()) else "NO",
        f"{found['plan_bytes'] / 1e6:.1f}",
        f"{found['context_bytes'] / 1e6:.1f}",
    )


def main() -> None:
    """Print it."""
    folder, *names = sys.argv[1:]
    print(" | ".join(HEADER))
    for name in names:
        print(" | ".join(row(Path(folder), name)))


if __name__ == "__main__":
    main()
