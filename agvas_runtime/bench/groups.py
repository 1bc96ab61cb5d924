"""Contenders beside each other, frame by frame: kinds of frames apart, ratios, and what the trie's rows cost.

All contenders saw the same frame at the same turn, so that ratios and differences are taken there, and medians of them.
A ratio's interval is that of its median, from order statistics: no distribution is assumed, but that turns do not
depend on each other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from agvas_runtime.bench.contenders import PLAIN
from agvas_runtime.bench.frames import DEFECTIVE, NORMAL
from agvas_runtime.bench.latency import WHOLE_CALL, Call, Track, stages
from agvas_runtime.result import AnswerKind

HIT, MISS = "hit", "miss"
"""The pass alone gave the answer, or more was decoded."""
ALL = "all"
ORDER = (ALL, HIT, MISS, *(kind.value for kind in AnswerKind), NORMAL, DEFECTIVE)
LANGUAGE = "llm+text"
"""Everything that the language model does for an answer; engines that decode throughout have it all in `llm`."""
SIDE_CHANCE = 0.025
"""How often a true median may lie below its interval, and as often above it."""
Groups = dict[str, list[int]]


def base_of(tracks: Sequence[Track]) -> Track:
    """The first contender that answers in a single pass, by which frames are grouped; the first of all if none does."""
    return next((track for track in tracks if track.contender.single_pass), tracks[0])


def groups_of(base: Track) -> Groups:
    """The turns of every group that has any: hits and misses, kinds of answers, kinds of frames."""
    found: Groups = {}
    for turn, call in enumerate(base.calls):
        trie = [HIT if call.one_pass else MISS] if base.contender.single_pass else []
        for name in (ALL, *trie, call.answer_kind, *([call.frame_kind] if call.frame_kind else [])):
            found.setdefault(name, []).append(turn)
    return {name: found[name] for name in ORDER if name in found}


def in_groups(track: Track, base: Track) -> dict[str, Any]:
    """A contender's stages in every group, and how many times as long as the base it took for the same frames."""
    return {
        name: {
            "frames": len(turns),
            "stages_ms": stages([track.calls[turn] for turn in turns]),
            "times_of_base": {
                what: median_interval([_ratio(track.calls[t], base.calls[t], what) for t in turns])
                for what in (WHOLE_CALL, LANGUAGE)
            },
        }
        for name, turns in groups_of(base).items()
    }


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """The median, and the `low` and `high` between which the true one lies in at least 95 of 100 such samples.

    Both are values of the sample: the k-th smallest and the k-th largest, with the largest k for which the chance that
    fewer than k values lie on one side of the true median is at most 2.5 %. NaN for fewer than 6 values.
    """
    count = len(values)
    rest = np.arange(count)
    log_chances = np.cumsum(np.append(0.0, np.log((count - rest) / (rest + 1)))) - count * np.log(2)
    k = int(np.searchsorted(np.cumsum(np.exp(log_chances)), SIDE_CHANCE, side="right"))
    ordered = np.sort(np.asarray(values, np.float64))
    known = k and not np.isnan(ordered).any()
    low, high = (float(ordered[k - 1]), float(ordered[-k])) if known else (float("nan"), float("nan"))
    return {"median": _median(values), "low": low, "high": high}


def trie_cost(tracks: Sequence[Track]) -> dict[str, Any] | None:
    """What the trie's rows cost, and what they bring; None without the same bundle decoding plainly beside it.

    The share is the rows' own part of the pass: what it takes longer than the pass of the plain contender, which has
    one row. `extra_ms` is what the base's whole work on the answer takes longer than another contender's.
    """
    base = base_of(tracks)
    wanted = (base.contender.engine + PLAIN, base.contender.path)
    plain = next((each for each in tracks if (each.contender.engine, each.contender.path) == wanted), None)
    if plain is None:
        return None
    report: dict[str, Any] = {"base": base.contender.name, "plain": plain.contender.name, "groups": {}}
    for name, turns in groups_of(base).items():
        if name not in (HIT, MISS):
            continue
        share = _median([_ms(base.calls[t], "llm") - _ms(plain.calls[t], "llm") for t in turns])
        over = {}
        for other in (each for each in tracks if each is plain or not each.contender.single_pass):
            extra = _median([_ms(base.calls[t], LANGUAGE) - _ms(other.calls[t], LANGUAGE) for t in turns])
            over[other.contender.name] = {"extra_ms": extra, "within_share": extra <= share}
        report["groups"][name] = {"frames": len(turns), "share_ms": share, "over": over}
    return report


def _ms(call: Call, what: str) -> float:
    if what == LANGUAGE:
        return call.times_ms.get("llm", 0.0) + call.times_ms.get("text", 0.0)
    return call.times_ms.get(what, 0.0)


def _ratio(call: Call, base: Call, what: str) -> float:
    below = _ms(base, what)
    return _ms(call, what) / below if below else float("nan")


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
