"""What `make proof-mixture` measures, in short: the samples are made, and no more memory is held than is stated."""

import sys
from pathlib import Path

import pytest

from tools.large_sets import write_large
from tools.mixture_throughput import AN_ENTRY, SPARE, measured


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_loading_holds_no_more_than_stated(tmp_path: Path) -> None:
    entries = write_large(tmp_path, 300)
    found = measured(tmp_path, "7b", 24)
    assert found["sets"] == {
        **dict.fromkeys(("ade20k", "paco-lvis", "refcoco"), 300),
        "dtd-instruct": 60,
        **dict.fromkeys(("road", "llava-150k"), 300),
    }
    assert found["samples"] == 24
    assert 2**20 < found["loading_bytes"] <= found["loading_bound_bytes"]
    assert found["index_bytes"] <= SPARE + AN_ENTRY * entries
