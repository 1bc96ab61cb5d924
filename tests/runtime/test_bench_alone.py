"""agvas-bench engine: a contender in a process of its own; what drivers and the kernel tell, on made-up ones."""

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest

from agvas_runtime.bench import alone
from agvas_runtime.bench.contenders import Contender
from agvas_runtime.bench.device_memory import DeviceMemory
from agvas_runtime.bench.energy import open_meter
from agvas_runtime.bench.frames import Frame, generated_frame
from agvas_runtime.bench.latency import Track
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines.records import Target
from agvas_runtime.engines.store import write_plan
from agvas_runtime.engines.tensorrt_build import Built
from agvas_runtime.errors import EngineError
from agvas_runtime.manifest import EnginePlan
from agvas_runtime.modes import Request
from agvas_runtime.nvml import NOT_TOLD, Process, driver_version, gpus
from tests.runtime.diary import Diary, frames_of

MIB = 2**20
ME, OTHER = 4711, 4712


class Driver:
    """NVML of a machine whose GPUs' figures are set: `used`, `own` (None: no list of processes), `energy_mj`."""

    def __init__(self, count=1, own=0):
        self.used, self.own, self.energy_mj = [100 * MIB] * count, [own] * count, [5000] * count

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = len(self.used)
        return 0

    def nvmlSystemGetDriverVersion(self, version, size):
        version.value = b"570.86.15"
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetName(self, handle, name, size):
        name.value = b"H%d" % handle.value
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.used = self.used[handle.value - 1]
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle, count, found):
        own = self.own[handle.value - 1]
        listed = [] if own is None else [(OTHER, 7), (ME, own)] if own else [(OTHER, 7)]
        for place, (pid, used) in enumerate(listed):
            found._obj[place].pid, found._obj[place].used = pid, used
        count._obj.value = len(listed)
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, energy):
        value = self.energy_mj[handle.value - 1]
        if value is None:
            return 3  # not supported
        energy._obj.value = value
        return 0


def test_gpus_are_those_that_the_driver_shows():
    assert [gpu.name for gpu in gpus(Driver(2))] == ["H1", "H2"]
    assert gpus(None) == []
    assert gpus(object()) == []  # a library without these functions
    assert gpus(Driver())[0].energy_mj() == 5000
    assert (driver_version(Driver()), driver_version(None), driver_version(object())) == ("570.86.15", None, None)


def test_a_process_is_laid_out_as_in_the_driver_s_header():
    assert gpus(Driver())[0].process_bytes(OTHER) == 7
    assert (ctypes.sizeof(Process), Process.pid.offset, Process.used.offset) == (24, 0, 8)


def test_memory_is_this_process_s_where_the_driver_lists_it():
    driver = Driver(2)
    memory = DeviceMemory(gpus(driver), ME)
    assert memory.in_use() is None
    for own in (300, 500, 400):
        driver.own[1] = own * MIB
        driver.used[0] += 1000 * MIB  # somebody else's, on the other GPU
        memory.look()
    assert memory.report() == {
        "name": "H2",
        "counts": "process",
        "before_bytes": 0,
        "loaded_bytes": 300 * MIB,
        "peak_bytes": 500 * MIB,
    }


@pytest.mark.parametrize("own", [None, NOT_TOLD])
def test_memory_is_the_whole_gpu_s_where_processes_are_not_told(own):
    driver = Driver(2, own)
    memory = DeviceMemory(gpus(driver), ME)
    for used in (400, 700, 650):
        driver.used[1] = used * MIB
        memory.look()
    report = memory.report()
    assert (report["name"], report["counts"]) == ("H2", "gpu")
    sizes = (report["before_bytes"], report["loaded_bytes"], report["peak_bytes"])
    assert sizes == (100 * MIB, 400 * MIB, 700 * MIB)


def test_another_process_of_the_same_number_is_not_taken_for_this_one():
    driver = Driver(1, 900 * MIB)  # as a container's process may see it
    memory = DeviceMemory(gpus(driver), ME)
    driver.used[0] += 300 * MIB
    memory.look()
    report = memory.report()
    assert (report["counts"], report["loaded_bytes"] - report["before_bytes"]) == ("gpu", 300 * MIB)


def test_a_gpu_whose_use_hardly_grows_is_not_used():
    driver = Driver(1, None)
    memory = DeviceMemory(gpus(driver), ME)
    driver.used[0] += 2 * MIB
    memory.look()
    assert memory.report() is None
    assert DeviceMemory([], ME).report() is None


def zone(root, folder, name, energy_uj, largest=1_000_000):
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", largest)):
        (path / file).write_text(f"{content}\n")


def test_energy_of_the_processors_adds_up_over_the_end_of_their_counters(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 100)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)  # is in its package
    zone(tmp_path, "intel-rapl:2", "psys", 5)  # holds the packages
    meter = open_meter(None, tmp_path)
    assert meter.source == "rapl"
    assert meter.joules() == 0
    zone(tmp_path, "intel-rapl:0", "package-0", 100_000)  # 200,000 further
    zone(tmp_path, "intel-rapl:1", "package-1", 300_100)
    zone(tmp_path, "intel-rapl:0:0", "core", 900_000)
    zone(tmp_path, "intel-rapl:2", "psys", 900_000)
    assert meter.joules() == pytest.approx(0.5)
    zone(tmp_path, "intel-rapl:0", "package-0", 50_000)  # once more around: 950,000
    assert meter.joules() == pytest.approx(1.45)


def test_without_counters_that_can_be_read_there_is_no_energy(tmp_path):
    assert open_meter(None, tmp_path / "nowhere") is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path, "intel-rapl:1", "package-1", "")  # of which only root may read the figure
    assert open_meter(None, tmp_path) is None


def test_a_counter_that_goes_away_leaves_no_half_figure(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = open_meter(None, tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", "")
    assert meter.joules() is None
    zone(tmp_path, "intel-rapl:0", "package-0", 3)
    assert meter.joules() is None


def test_energy_of_a_gpu_in_use_is_never_that_of_the_processors(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    driver = Driver()
    (gpu,) = gpus(driver)
    meter = open_meter(gpu, tmp_path)
    driver.energy_mj[0] += 2500
    assert (meter.source, meter.joules()) == ("nvml", 2.5)
    driver.energy_mj[0] = None
    assert open_meter(gpu, tmp_path) is None


def test_frames_go_on_while_energy_is_counted(monkeypatch):
    """The driver's counter and memory are looked at after every frame, on the GPU that loading took memory of."""
    driver = Driver()
    memory = DeviceMemory(gpus(driver), ME)
    driver.own[0] = 300 * MIB
    memory.look()

    class Hungry(Diary):
        def segment(self, *args, **asked):
            driver.energy_mj[0] += 250
            driver.own[0] = (300 + len(self.turns)) * MIB
            return super().segment(*args, **asked)

    engine = Hungry()
    monkeypatch.setattr(alone, "ENERGY_S", 0.0)
    energy = alone._run(Track(Contender.of("ort-cuda", None), engine), frames_of(b"0", b"1"), memory, False)
    assert len(engine.turns) == alone.FRAMES
    assert (energy["source"], energy["joules_per_frame"]) == ("nvml", 0.25)
    assert energy["watts_mean"] > 0
    assert memory.report()["peak_bytes"] == 319 * MIB


def test_a_gpu_that_is_not_recognised_is_not_given_the_processors_energy(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    asked = []
    monkeypatch.setattr(alone, "ENERGY_S", 0.0)
    monkeypatch.setattr(alone, "open_meter", lambda gpu: asked.append(gpu) or open_meter(gpu, tmp_path))
    track, frames = Track(Contender.of("ort-cuda", None), Diary()), frames_of(b"0")
    unknown = DeviceMemory(gpus(Driver()), ME)  # nothing grows
    assert alone._run(track, frames, unknown, False) is None
    assert asked == []
    alone._run(track, frames, DeviceMemory([], ME), True)
    assert asked == [None]


def test_the_process_does_not_import_what_lies_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('not Python of its own')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"measuring it alone failed: .*no such bundle folder"):
        alone.measure_alone(Contender.of("ort", Path("nowhere")), frames_of(b""), None)


def test_build_time_is_what_is_recorded_beside_the_engines(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = Target(gpu="H", compute_capability="9.0", tensorrt="10.9", driver="570")
    bundle = Bundle.open(default_bundle_path())
    plan = EnginePlan(precision="fp16", graphs=["spam", "llm"], ranges={})
    bundle = replace(
        bundle, folder=tmp_path / "bundle", manifest=bundle.manifest.model_copy(update={"engine_plan": plan})
    )
    bundle.folder.mkdir()
    for graph, seconds in (("spam", 1.5), ("llm", 20.25)):
        write_plan(bundle, target, graph, Built(b"a plan", b"", seconds, 0, 0, None, []))
    assert alone.build_ms(bundle, target) == 21750.0


def test_a_contender_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(EngineError, match=r"measuring it alone failed: .*no such bundle folder"):
        alone.measure_alone(Contender.of("ort", tmp_path / "nowhere"), frames_of(b""), None)


def test_the_same_is_asked_as_in_the_race():
    frames = [Frame(generated_frame(0))]
    with pytest.raises(EngineError, match="class_name: found a blank text"):
        alone.measure_alone(Contender.of("ort", None), frames, 1, Request(class_name=" "))
