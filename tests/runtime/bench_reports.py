"""Reports of agvas-bench, schema 3, made by hand: drawn numbers in the shape that the commands write."""

from typing import Any

import numpy as np

from agvas_runtime.bench.figures import figures

STAGES = {"decode": 0.9, "preprocess": 0.5, "encoders": 2.2, "spam": 0.15, "llm": 1.4, "text": 0.05, "decoder": 0.4,
          "postprocess": 0.3}  # fmt: skip
MIB = 2**20

MACHINE = {
    "cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz",
    "architecture": "x86_64",
    "cores_physical": 1,
    "cores_usable": 2,
    "memory_bytes": 8 * 2**30,
    "load_average_1min": 0.12,
    "system": "Linux-6.1.0-x86_64-with-glibc2.36",
    "python": "3.11.7",
    "agvas": "0.1.0",
    "commit": "21395bf0a1b2",
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.32.0"},
    "cores_limit": 1.5,
    "memory_limit_bytes": 6 * 2**30,
    "gpus": ["NVIDIA L4", "NVIDIA L4"],
    "gpu_driver": "570.86.15",
}


def engine_report(names: dict[str, float], frames: int = 400) -> dict[str, Any]:
    """Contenders that take `factor` times as long as the first; every fourth frame is a miss of the trie."""
    rng = np.random.default_rng(8)
    miss = np.arange(frames) % 4 == 3
    drawn = {name: _times(rng, factor, frames, miss) for name, factor in names.items()}
    base, base_name = next(iter(drawn.values())), next(iter(drawn))
    return {
        "schema": 3,
        "kind": "engine",
        "began": "2026-11-26T10:00:00Z",
        "machine": MACHINE,
        "frames": frames,
        "warmup": 20,
        "spread_s": 20.0,
        "bouts_began_s": [1e9 + bout for bout in range(-(-frames // 20))],
        "threads": 2,
        "images": "generated",
        "frame_bytes_mean": 30720.5,
        "base": base_name,
        "trie": None,
        "yardstick_ms": rounded(0.4 * (1 + 0.05 * np.abs(rng.normal(size=frames)))),
        "elsewhere_ms": [0.0] * frames,
        "contenders": [_contender(name, times, base, miss) for name, times in drawn.items()],
    }


def with_everything(report: dict[str, Any]) -> dict[str, Any]:
    """The same report with what is measured on demand, of a machine with a GPU; the last contender is the reference."""
    reference = report["contenders"][-1]["name"]
    for place, each in enumerate(report["contenders"]):
        whole = each["stages_ms"]["call"]["p50"]
        gpu = {"name": "NVIDIA L4", "before_bytes": 0, "loaded_bytes": (300 + 100 * place) * MIB,
               "peak_bytes": (420 + 150 * place) * MIB}  # fmt: skip
        energy = {"source": "nvml", "joules_per_frame": 0.21 * (1 + place), "watts_mean": 41.5}
        each["alone"] = {
            "load_ms": 310.0 + 100 * place,
            "first_call_ms": whole * 3,
            "build_ms": 5200.0 if place == 1 else None,
            "rss_before_bytes": 90 * MIB,
            "rss_loaded_bytes": (160 + 90 * place) * MIB,
            "rss_peak_bytes": (190 + 120 * place) * MIB,
            "device": gpu if place != 1 else None,
            "energy": energy if place != 1 else None,
        }
        gains = {batch: 1 + 0.5 * np.log2(batch) for batch in (1, 2, 4, 8)}
        each["throughput"] = [
            {"batch": batch, "frames_per_s": 1e3 / whole * gain, "ms_per_frame": whole / gain}
            for batch, gain in gains.items()
        ]
        alike = {"against": reference, "frames": 40, "iou_mean": 0.998 - 0.012 * place, "iou_min": 0.91,
                 "same_verdicts": 40 - place}  # fmt: skip
        each["quality"] = None if each["name"] == reference else alike
        each["data"] = {"dataset": "mvtec", "images": 120, "ap": 61.25 - place, "f1_max": 60.5 - place,
                        "iou_ano": 41.75 - place, "iou_nor": 93.5}  # fmt: skip
    names = [each["name"] for each in report["contenders"]]
    over = {names[1]: {"extra_ms": -0.8, "within_share": True}}
    report["trie"] = {"base": names[0], "plain": names[1],
                      "groups": {"hit": {"frames": 300, "share_ms": 0.4, "over": over},
                                 "miss": {"frames": 100, "share_ms": 0.45, "over": over}}}  # fmt: skip
    return report


def serve_report(cameras: tuple[int, ...] = (1, 2, 4, 8, 12, 16), target_p99_ms: float | None = 33.0) -> dict[str, Any]:
    """A ramp over cameras of 10 frames/s on a box that carries some 100 frames/s."""
    steps = [serve_step(n, target_p99_ms) for n in cameras]
    kept = [step["cameras"] for step in steps if step["held"]]
    broken = [step["cameras"] for step in steps if step["held"] is False]
    carried = {"cameras": max(kept, default=0), "first_broken": min(broken, default=None)}
    return {
        "schema": 3,
        "kind": "serve",
        "began": "2026-11-26T11:30:00Z",
        "machine": MACHINE,
        "target": {"address": "127.0.0.1:50051", "protocol": "agvas", "model": "tiny", "model_sha256": "ab" * 32},
        "load": {"arrivals": "poisson", "seed": 1, "seconds": 20.0, "warmup_s": 2.0, "target_p99_ms": target_p99_ms,
                 "frame": {"format": "encoded", "bytes_mean": 30720.5, "height": 256, "width": 256}},
        "steps": steps,
        "carried": carried if target_p99_ms else None,
    }  # fmt: skip


def serve_step(cameras: int, target_p99_ms: float | None, lost: bool = False) -> dict[str, Any]:
    """One step; waiting grows as the load nears 110 frames/s, and all answers are lost where that is asked."""
    rng = np.random.default_rng(cameras)
    rate, seconds = 10.0, 10.0
    sent = int(cameras * rate * seconds)
    engine = 6.5 * (1 + 0.1 * np.abs(rng.normal(size=sent)))
    waiting = rng.exponential(9.0 * min(cameras * rate / 110, 0.95) / (1 - min(cameras * rate / 110, 0.95)), size=sent)
    overhead = 0.8 + 0.2 * np.abs(rng.normal(size=sent)) + waiting
    latency = engine + overhead
    dropped = rng.random(sent) < max(0.0, (cameras * rate - 110) / 400)
    answered = np.zeros(sent, bool) if lost else ~dropped
    late = latency > 100.0
    statuses = {"OK": int(answered.sum()), "DROPPED": int((~answered).sum())}
    known = figures(latency[answered]) if answered.any() else None
    camera = np.arange(sent) % cameras
    misses = int((late | ~answered).sum())
    return {
        "cameras": cameras,
        "offered_hz": cameras * rate,
        "answered_hz": float(answered.sum() / seconds),
        "seconds": seconds,
        "sent": sent,
        "statuses": {name: count for name, count in statuses.items() if count},
        "held": None if target_p99_ms is None else bool(known and known["p99"] <= target_p99_ms),
        "latency_ms": known,
        "sent_late_ms": figures(np.abs(rng.normal(scale=0.05, size=sent))),
        "engine_ms": figures(engine[answered]) if answered.any() else None,
        "overhead_ms": figures(overhead[answered]) if answered.any() else None,
        "misses": misses,
        "miss_share": misses / sent,
        "fairness": {
            "jain": 0.998,
            "worst_p99_ms": known and known["p99"] * 1.1,
            "best_p99_ms": known and known["p99"] * 0.9,
        },
        "per_camera": [
            {
                "name": f"camera-{n}",
                "rate_hz": rate,
                "deadline_ms": 100.0,
                "sent": int((camera == n).sum()),
                "statuses": {"OK": int(answered[camera == n].sum())},
                "latency_ms": figures(latency[answered & (camera == n)]) if answered.any() else None,
                "misses": int((late | ~answered)[camera == n].sum()),
            }
            for n in range(cameras)
        ],
        "samples": {
            "camera": camera.tolist(),
            "due_s": rounded(np.sort(rng.random(sent)) * seconds),
            "latency_ms": _or_null(latency, answered),
            "overhead_ms": _or_null(overhead, answered),
            "engine_ms": _or_null(engine, answered),
            "status": ["OK" if each else "DROPPED" for each in answered],
        },
    }  # fmt: skip


def rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def _or_null(values: np.ndarray, known: np.ndarray) -> list[float | None]:
    return [round(float(value), 4) if there else None for value, there in zip(values, known, strict=True)]


def _times(rng: np.random.Generator, factor: float, frames: int, miss: np.ndarray) -> dict[str, np.ndarray]:
    common = 1 + 0.04 * np.abs(rng.normal(size=frames)) + (rng.random(frames) < 0.02) * rng.exponential(0.5, frames)
    times = {stage: factor * ms * common * (1 + 0.02 * rng.random(frames)) for stage, ms in STAGES.items()}
    times["text"] = times["text"] + factor * 2.0 * miss
    times["total"] = sum(times.values()) + 0.02
    times["call"] = times["total"] + 0.15 * factor * common
    return times


def _interval(median: float) -> dict[str, float]:
    return {"median": median, "low": median * 0.99, "high": median * 1.01}


def _contender(
    name: str, times: dict[str, np.ndarray], base: dict[str, np.ndarray], miss: np.ndarray
) -> dict[str, Any]:
    frames = len(miss)
    groups = {}
    for group, turns in (("all", miss >= 0), ("hit", ~miss), ("miss", miss)):
        if turns.any():
            ratios = {"call": (times["call"] / base["call"])[turns],
                      "llm+text": ((times["llm"] + times["text"]) / (base["llm"] + base["text"]))[turns]}  # fmt: skip
            groups[group] = {
                "frames": int(turns.sum()),
                "stages_ms": {stage: figures(values[turns]) for stage, values in times.items()},
                "times_of_base": {what: _interval(float(np.median(found))) for what, found in ratios.items()},
            }  # fmt: skip
    return {
        "name": name,
        "engine": "ort",
        "model": "embedded",
        "model_sha256": "0123456789abcdef" * 4,
        "weights": "",
        "mode": "direct",
        "instruction": "Find the defect.",
        "frames": frames,
        "frames_per_s": 1e3 * frames / float(times["call"].sum()),
        "outcomes": {"segmented": int(miss.sum()), "rejected": frames - int(miss.sum())},
        "stages_ms": {stage: figures(values) for stage, values in times.items()},
        "groups": groups,
        "throughput": [],
        "alone": None,
        "quality": None,
        "data": None,
        "samples": {
            "frame_kind": [None] * frames,
            "answer_kind": ["segmented" if each else "rejected" for each in miss],
            "one_pass": [bool(not each) for each in miss],
            "times_ms": {stage: rounded(values) for stage, values in times.items()},
        },
    }  # fmt: skip
