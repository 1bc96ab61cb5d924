"""agvas-bench engine: which contenders a command line means, groups of frames, ratios with their intervals."""

import json
import os
from math import isnan

import numpy as np
import pytest

from agvas_runtime.bench.contenders import INDEX, Contender, checkpoint_sha256, contenders_of
from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.groups import LANGUAGE, base_of, in_groups, median_interval, trie_cost
from agvas_runtime.bench.latency import Track, race
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import InputError
from tests.runtime.diary import Diary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ort", ("ort:embedded", "ort", None)),
        ("ort:a/b", ("ort:a/b", "ort", "a/b")),
        ("fast=ort:a/b", ("fast", "ort", "a/b")),
        ("slow=reference", ("slow", "reference", None)),
        ("ort:a=b", ("ort:a=b", "ort", "a=b")),
        ("b=ort:runs/rate=0.1", ("b", "ort", "runs/rate=0.1")),
    ],
)
def test_contenders_are_read_from_the_command_line(text, expected):
    (contender,) = contenders_of([], None, [text])
    assert (contender.name, contender.engine, contender.path and str(contender.path)) == expected


@pytest.mark.parametrize("text", ["", "=ort", "fast=", ":path"])
def test_a_contender_without_its_parts_is_refused(text):
    with pytest.raises(InputError, match="must be"):
        Contender.parse(text)


@pytest.fixture
def targets(tmp_path):
    """A bundle and a checkpoint, as far as the command line looks at them; and a folder that is neither."""
    for folder, file in (("bundle", "manifest.json"), ("checkpoint", "config.json"), ("other", "readme.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    return tmp_path / "bundle", tmp_path / "checkpoint", tmp_path / "other"


def told(contenders):
    return [(each.engine, each.path and each.path.name) for each in contenders]


def test_every_target_gets_the_engines_that_fit_its_kind(targets):
    bundle, checkpoint, _ = targets
    both = [("ort", "bundle"), ("reference", "checkpoint")]
    assert told(contenders_of([bundle, checkpoint], None, [])) == both
    names = "reference,ort-plain,tensorrt,compiled-decode"
    assert told(contenders_of([bundle, checkpoint], names, [])) == [
        ("ort-plain", "bundle"),
        ("tensorrt", "bundle"),
        ("reference", "checkpoint"),
        ("compiled-decode", "checkpoint"),
    ]
    assert told(contenders_of([], "ort,reference", [])) == [("ort", None), ("reference", None)]
    assert told(contenders_of([], None, [])) == [("ort", None)]


def test_an_engine_that_fits_no_target_is_refused(targets):
    bundle, checkpoint, _ = targets
    with pytest.raises(InputError, match="--engine reference: fits no target, which are bundles"):
        contenders_of([bundle], "ort,reference", [])
    with pytest.raises(InputError, match="--engine ort-plain: fits no target, which are checkpoints"):
        contenders_of([checkpoint], "ort-plain", [])


def test_a_folder_that_is_neither_bundle_nor_checkpoint_is_refused(targets):
    with pytest.raises(InputError, match=r"other: found neither manifest.json \(of a bundle\) nor config.json"):
        contenders_of([targets[2]], None, [])
    with pytest.raises(InputError, match="not a folder; expected a bundle or checkpoint"):
        contenders_of([targets[2] / "readme.txt"], None, [])


def test_models_are_told_apart_by_what_lies_in_them(targets):
    bundle, checkpoint, _ = targets
    contenders = contenders_of([bundle, checkpoint], "ort,ort-plain,reference", [])
    before = [each.model_sha256 for each in contenders]
    assert before[0] == before[1] != before[2]
    (bundle / "manifest.json").write_text("{ }")
    os.utime(checkpoint / "config.json", ns=(0, 0))
    assert contenders[2].model_sha256 == before[2]  # of what lies in it, whenever that was written
    (checkpoint / "more.json").write_text("{}")
    assert not set(before) & {each.model_sha256 for each in contenders}
    assert Contender.of("ort", None).model_sha256 == Contender.of("ort", default_bundle_path()).model_sha256
    assert Contender.of("reference", None).model_sha256 is None


def test_shards_are_not_read_whose_hash_the_index_records(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"first")
    plain = checkpoint_sha256(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"other")
    assert checkpoint_sha256(tmp_path) != plain
    index = {"metadata": {"files": {"a.safetensors": {"sha256": "ab" * 32, "size": 5}}}, "weight_map": {}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    recorded = checkpoint_sha256(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"first")
    assert checkpoint_sha256(tmp_path) == recorded
    for others in ('{"metadata": {"total_size": 1}}', "[]", "{"):
        (tmp_path / INDEX).write_text(others)
        assert checkpoint_sha256(tmp_path) != recorded


def compared():
    """Hits and misses: a single pass of 3 ms, the same graphs without it (1 ms), an engine that decodes (8 ms)."""
    engines = {"reference": Diary(llm_ms=8.0), "ort": Diary(llm_ms=3.0, text_ms=1.5), "ort-plain": Diary(text_ms=1.0)}
    tracks = [Track(Contender.of(engine, None), diary) for engine, diary in engines.items()]
    race(tracks, [Frame(b"0", "normal"), Frame(b"x", "defective"), Frame(b"1")], 0, 18)
    return tracks


def test_frames_are_grouped_by_what_the_single_pass_made_of_them():
    reference, single, _ = compared()
    assert base_of([reference, single]) is single
    groups = in_groups(reference, single)
    counts = {"all": 18, "hit": 12, "miss": 6, "rejected": 12, "other": 6, "normal": 6, "defective": 6}
    assert {name: group["frames"] for name, group in groups.items()} == counts
    assert groups["hit"]["times_of_base"][LANGUAGE] == pytest.approx(dict.fromkeys(("median", "low", "high"), 8 / 3))
    assert groups["miss"]["times_of_base"][LANGUAGE]["median"] == pytest.approx(8 / 4.5)
    assert groups["miss"]["stages_ms"]["llm"]["p99.9"] == 8.0


def test_a_base_without_a_stage_has_no_ratio():
    reference, single, _ = compared()
    for call in single.calls:
        del call.times_ms["llm"], call.times_ms["text"]
    assert all(isnan(value) for value in in_groups(reference, single)["all"]["times_of_base"][LANGUAGE].values())


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (100, 40, 61)],  # the table of any book on the sign test
)
def test_an_interval_s_ends_are_order_statistics(count, low, high):
    found = median_interval(np.random.default_rng(0).permutation(np.arange(1.0, count + 1)).tolist())
    assert found == {"median": (count + 1) / 2, "low": low, "high": high}


def test_fewer_than_six_values_have_no_interval():
    found = median_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found["median"] == 3.0
    assert isnan(found["low"])
    assert isnan(found["high"])


def test_ten_thousand_values_have_a_narrow_interval():
    found = median_interval(np.linspace(0, 1, 10_001).tolist())
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.5 / 100, abs=2e-4)
    assert found["high"] == pytest.approx(0.5 + 1.96 * 0.5 / 100, abs=2e-4)


@pytest.mark.parametrize("count", [7, 30, 101])
@pytest.mark.parametrize(
    ("draw", "median"),
    [
        (lambda rng, size: rng.lognormal(0.0, 1.0, size), 1.0),
        (lambda rng, size: rng.exponential(1.0, size), np.log(2)),
        (lambda rng, size: rng.standard_cauchy(size), 0.0),
    ],
)
def test_intervals_hold_the_true_median_as_often_as_they_say(draw, median, count, rng):
    found = [median_interval(values) for values in draw(rng, (1000, count))]
    held = sum(each["low"] <= median <= each["high"] for each in found) / len(found)
    assert 0.93 <= held <= 0.995  # at least 95 %, and the chance of 1,000 draws; for 7 values 98.4 %
    missed = [sum(each["high"] < median for each in found), sum(median < each["low"] for each in found)]
    assert max(missed) < 45  # both sides alike


def test_the_tries_rows_cost_what_the_same_pass_takes_longer_than_without_them():
    cost = trie_cost(compared())
    assert (cost["base"], cost["plain"]) == ("ort:embedded", "ort-plain:embedded")
    hit, miss = cost["groups"]["hit"], cost["groups"]["miss"]
    assert (hit["share_ms"], miss["share_ms"]) == (2.0, 2.0)
    assert hit["over"]["ort-plain:embedded"] == {"extra_ms": 2.0, "within_share": True}
    assert miss["over"]["ort-plain:embedded"] == {"extra_ms": 2.5, "within_share": False}
    assert miss["over"]["reference:embedded"] == {"extra_ms": -3.5, "within_share": True}


def test_without_the_same_bundle_decoding_plainly_nobody_knows_what_the_trie_costs():
    reference, single, plain = compared()
    assert trie_cost([reference, single]) is None
    assert trie_cost([reference]) is None
    plain.contender = Contender.of("ort-plain", default_bundle_path())
    assert trie_cost([single, plain]) is None
