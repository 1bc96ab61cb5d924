"""What a calibration found, as one JSON-able document and as text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.calibrate.areas import Areas
from agvas_runtime.calibrate.bounds import images_needed, interval, most_rejects, upper_bound
from agvas_runtime.calibrate.choose import Choice, Line, choose, saved_by_nothing
from agvas_runtime.verdict import AnswerKind

Report = dict[str, Any]


def calibrated(areas: Areas, line: Line, wanted: float, confidence: float, on_no_answer: str) -> Report:
    """Choose a setting for the wanted false-reject rate and say what these images show of it.

    Args:
        areas: of N normal images, at least one.
        line: the settings to choose from.
        wanted: false-reject rate, above 0 and below 1.
        confidence: of all bounds and intervals, above 0 and below 1.
        on_no_answer: what the gate does with NO_ANSWER: reject, pass or stop.
    """
    n = len(areas.kinds)
    allowed = most_rejects(n, wanted, confidence)
    choice = choose(areas.largest, areas.thresholds, line, allowed or 0)
    # Within reach the bound is an order statistic's; the line's end is no choice of these images: their count's own.
    bound = upper_bound((allowed or 0) if choice.reached else choice.rejects, n, confidence)
    curves = _areas_shown(areas, line, choice)
    return {
        "images": n,
        "false_reject_wanted": wanted,
        "confidence": confidence,
        "threshold": choice.threshold,
        "min_area_px": choice.min_area_px,
        "reached": choice.reached,
        "rejects_allowed": allowed or 0,
        "rejects": choice.rejects,
        "false_reject_upper_bound": bound,
        "shown": choice.reached and allowed is not None,
        "images_needed": images_needed(wanted, confidence),
        "answers": {kind.value: areas.kinds.count(kind) for kind in AnswerKind},
        "segmented": _rate(areas.kinds.count(AnswerKind.SEGMENTED), n, confidence),
        "no_answer": {**_rate(areas.kinds.count(AnswerKind.OTHER), n, confidence), "gate": on_no_answer},
        "segmented_as_a_whole": saved_by_nothing(areas.largest, areas.pixels),
        "line": {"threshold": line.start, "min_area": line.min_area, "max_area": line.max_area},
        "reject_rate": {
            "thresholds": areas.thresholds.tolist(),
            "by_min_area_px": {str(area): np.mean(areas.largest >= area, axis=0).tolist() for area in curves},
        },
    }


def conclusion(report: Report) -> str:
    """In one sentence, whether the wanted rate is shown."""
    n, confidence = report["images"], _percent(report["confidence"])
    wanted, bound = _percent(report["false_reject_wanted"]), _percent(report["false_reject_upper_bound"])
    if not report["reached"]:
        found = f"{report['rejects']} of {n} images are rejected even at threshold {report['threshold']:g}"
        return f"{found} and min_area_px {report['min_area_px']}, expected at most {report['rejects_allowed']}"
    if report["shown"]:
        return f"at most {bound} of normal parts are rejected, at {confidence} confidence: {wanted} or better is shown"
    few = f"{n} images are too few to show {wanted} at {confidence} confidence"
    return f"{few}: with no reject at all they show at most {bound}, and {report['images_needed']} would be needed"


def print_report(report: Report) -> None:
    """The figures as a table, then what they mean."""
    n, answers = report["images"], report["answers"]
    table = Table(box=None, show_header=False)
    kinds = ", ".join(f"{count} {kind}" for kind, count in answers.items())
    copies = report.get("copies", 0)
    table.add_row("images", f"{n}" + (f" ({copies} more are copies and do not count)" if copies else ""))
    table.add_row("answers", kinds)
    table.add_row("by answers alone", f"{_shown(report['segmented'])} would be rejected")
    gate = {"reject": "rejects", "pass": "passes", "stop": "stops for"}[report["no_answer"]["gate"]]
    table.add_row("NO_ANSWER", f"{_shown(report['no_answer'])}; the gate {gate} them, whatever the threshold")
    table.add_row("threshold", f"{report['threshold']:g}")
    table.add_row("min_area_px", f"{report['min_area_px']}")
    table.add_row("rejects", f"{report['rejects']} of these {n} images")
    table.add_row("upper bound", f"{_percent(report['false_reject_upper_bound'])} of all normal parts")
    console.output().print(table, highlight=False)
    if report["segmented_as_a_whole"]:
        whole = f"{report['segmented_as_a_whole']} of {n} images are segmented as a whole"
        print(f"{whole}: no threshold below 1 saves them, and at 1 no defect would be found either")
    if report["reached"]:
        print(conclusion(report))


def _rate(count: int, n: int, confidence: float) -> dict[str, Any]:
    low, high = interval(count, n, confidence)
    return {"count": count, "rate": count / n, "interval": [low, high]}


def _areas_shown(areas: Areas, line: Line, choice: Choice) -> list[int]:
    """A few areas to show the rate at: the line's ends, between them, and the one that was chosen."""
    between: NDArray[np.int64] = np.geomspace(line.min_area, line.max_area, 4).round().astype(np.int64)
    return sorted({*between.tolist(), choice.min_area_px})


def _shown(rate: dict[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{rate['count']} ({_percent(rate['rate'])}; {_percent(low)} to {_percent(high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
