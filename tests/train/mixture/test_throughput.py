"""What `make proof-mixture` measures, in short: the samples are made, and no more memory is held than is stated."""

import sys
from pathlib import Path

import pytest

from tools.large_sets import Lists, write_large
from tools.list_memory import HELD, holds, weighed
from tools.mixture_throughput import measured

Large = tuple[Path, dict[str, Lists]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    root = tmp_path_factory.mktemp("large")
    return root, write_large(root, 2000)


def test_no_list_takes_more_than_stated_and_the_statements_are_no_more_than_four_times_what_is_taken(
    large: Large,
) -> None:
    root, lists = large
    found = weighed(root, lists)
    assert found.keys() == lists.keys() == HELD.keys()
    for name, weight in found.items():
        assert holds(weight), (name, weight)
        assert weight["opening_bytes"] >= weight["held_bytes"] > HELD[name] * weight["entries"] / 4, (name, weight)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_loading_holds_no_more_than_stated(large: Large) -> None:
    found = measured(large[0], "7b", 24)
    assert found["sets"] == {
        **dict.fromkeys(("ade20k", "paco-lvis", "refcoco"), 2000),
        **dict.fromkeys(("dtd-instruct", "goodsad-instruct"), 400),
        **dict.fromkeys(("road", "llava-150k"), 2000),
    }
    assert found["samples"] == 24
    assert 2**20 < found["loading_bytes"] <= found["loading_bound_bytes"]
    assert found["opening_bytes"] >= found["lists_bytes"]
