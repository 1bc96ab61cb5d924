"""Which sets take part: those that are there, or the named ones, never a test set."""

import shutil
import sys
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError
from agvas_train.config import DataConfig
from agvas_train.data.conversation import Task
from agvas_train.data.mixture.opening import check_alike, open_mixture
from agvas_train.data.sets.adapter import Halves
from agvas_train.data.sets.registry import REGISTRY, Group
from tests.train.mixture.mixed import silent
from tests.train.sets.miniatures import write_all

ALL = dict.fromkeys(Task, 1.0)
TABLE = [entry.name for entry in REGISTRY.values() if entry.in_mixture]


def opened(root: Path, *sets: str, tasks: dict[Task, float] = ALL, samples: dict[str, int] | None = None) -> list[str]:
    data = DataConfig(root=str(root), sets=list(sets) or None, samples=samples)
    return list(open_mixture(data, tasks, silent))


def test_without_names_the_sets_of_table_a1_take_part(root: Path) -> None:
    assert opened(root) == TABLE
    assert opened(root, tasks={Task.DIRECT: 1, Task.GENERAL: 0}) == TABLE[12:18]


def test_what_is_not_there_is_left_out_and_told_once(tmp_path: Path) -> None:
    root = write_all(tmp_path)
    shutil.rmtree(root / "vlpart")
    (root / "refer_seg/refclef/instances.json").unlink()
    told: list[str] = []
    found = open_mixture(DataConfig(root=str(root)), ALL, told.append)
    assert list(found) == [name for name in TABLE if name not in ("paco-lvis", "pascal-part", "refclef")]
    assert told == [f"{root}: left out of the mixture, not there: paco-lvis, pascal-part, refclef"]


def test_named_sets_take_part_whether_table_a1_has_them_or_not(root: Path) -> None:
    assert opened(root, "reason-seg", "road", tasks={Task.GENERAL: 1, Task.DIRECT: 2}) == ["reason-seg", "road"]


@pytest.mark.parametrize(
    ("sets", "tasks", "fault"),
    [
        (["rode"], ALL, "'rode': no such data set; did you mean 'road'?"),
        (["mvtec"], ALL, "mvtec is for testing only, expected sets to train on"),
        (["road", "ade20k"], {Task.DIRECT: 1}, "ade20k: found no weight for general segmentation in the mixture"),
        (["road"], {Task.DIRECT: 1, Task.EXPLAIN: 1}, "found no set of Anomaly-Instruct, which the mixture draws; exp"),
    ],
)
def test_sets_that_cannot_take_part_are_named(root: Path, sets: list[str], tasks: dict, fault: str) -> None:
    with pytest.raises(InputError, match=fault.replace("?", r"\?")):
        opened(root, *sets, tasks=tasks)


def test_a_named_set_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="road: found no anomaly_seg/Road in "):
        opened(tmp_path, "road", tasks={Task.DIRECT: 1})
    with pytest.raises(InputError, match="nowhere: found no folder, expected the root of the data sets"):
        opened(tmp_path / "nowhere")


def test_a_run_goes_on_with_the_sets_that_it_began_with(root: Path) -> None:
    tasks = {Task.DIRECT: 1.0}
    assert opened(root, tasks=tasks, samples={"road": 4}) == ["road"]
    with pytest.raises(InputError, match="road: found 4 samples, expected 5 as when the run began"):
        opened(root, tasks=tasks, samples={"road": 5})


def reads() -> int:
    """How many lists the modules of the sets have read so far."""
    modules = [module for name, module in sys.modules.items() if name.startswith("agvas_train.data.sets")]
    caches = {id(value): value for module in modules for value in vars(module).values() if hasattr(value, "cache_info")}
    assert len(caches) > 5
    return sum(cache.cache_info().misses for cache in caches.values())


def test_opening_reads_every_list_and_nothing_later_does(tmp_path: Path) -> None:
    root = write_all(tmp_path)
    names = [entry.name for entry in REGISTRY.values() if entry.group is not Group.TEST]
    before = reads()
    sets = open_mixture(DataConfig(root=str(root), sets=names), ALL, silent)
    opened = reads()
    assert opened - before >= len(names)
    for adapter in sets.values():
        parts = [adapter.half(anomalous=which) for which in (True, False)] if isinstance(adapter, Halves) else [adapter]
        for part in parts:
            assert all(part.sample(index).pixels for index in range(len(part)))
    assert reads() == opened


@pytest.mark.parametrize(
    "name",
    [
        *("refer_seg/refcoco/instances.json", "refer_seg/refcoco/refs(unc).p", "refer_seg/refcoco+/refs(unc).json"),
        *("vlpart/pascal_part/train.json", "anomaly_seg/meta_Road.json", "anomaly_instruct_20K/DTD.jsonl"),
        *("anomaly_instruct_20K/Goods.mapping.yaml", "vqa_dataset/llava_dataset/llava_instruct_150k.json"),
    ],
)
def test_a_torn_list_is_refused_at_the_start_in_one_line(tmp_path: Path, name: str) -> None:
    file = write_all(tmp_path) / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError) as fault:
        opened(tmp_path)
    assert str(fault.value).startswith(f"{file}: ")
    assert "\n" not in str(fault.value)


def test_processes_that_see_other_files_are_told_apart() -> None:
    mine = {"road": 4, "gc10": 4}
    check_alike([mine, dict(mine), dict(mine)])
    check_alike([{}])
    with pytest.raises(InputError, match=r"^gc10: found 3 samples in process 2, expected 4 as in process 0$"):
        check_alike([mine, mine, {"road": 4, "gc10": 3}])
    with pytest.raises(InputError, match=r"^miad: found 9 samples in process 1, expected 0 as in process 0$"):
        check_alike([mine, mine | {"miad": 9}])
    with pytest.raises(InputError, match=r"^road: found 0 samples in process 1, expected 4 as in process 0$"):
        check_alike([mine, {"gc10": 4}])
