"""Tensors in system shared memory: whose memory is opened, what a caller can do with it, and what it cannot."""

import os
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from agvas_runtime.errors import InputError, NotFound, NotNow
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.proto.inference import open_inference_pb2_grpc as oi_grpc
from agvas_runtime.server.kserve import regions as regions_module
from agvas_runtime.server.kserve.regions import MOST_REGIONS, Regions
from agvas_runtime.server.statuses import TooMuch
from tests.runtime.live_server import DEFECT, IMAGES, live_server, until

FRAME = IMAGES[DEFECT]
HEIGHT, WIDTH, _ = FRAME.shape
SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="there is no /dev/shm")
Code = grpc.StatusCode


@pytest.fixture
def key():
    """A name of shared memory that is this test's alone; its file goes with the test."""
    name = f"agvas-test-{os.getpid()}"
    yield name
    with suppress(FileNotFoundError):
        (SHM / name).unlink()


@pytest.fixture
def regions():
    return Regions(1 << 20)


@pytest.fixture(scope="module")
def live():
    with live_server(max_message_mb=4) as server:
        yield server


@pytest.fixture(scope="module")
def stub(live):
    return oi_grpc.GRPCInferenceServiceStub(live.channel)


@pytest.fixture(scope="module")
def asking(live):
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; `make test` installs it")
    client = triton.InferenceServerClient(live.address)
    yield client
    client.close()


@pytest.fixture
def memory(stub, key):
    """A registered region with room for a frame and its outputs behind it."""
    path = SHM / key
    path.write_bytes(FRAME.tobytes() + bytes(8 * HEIGHT * WIDTH))
    size = path.stat().st_size
    stub.SystemSharedMemoryRegister(oi.SystemSharedMemoryRegisterRequest(name="tensors", key=f"/{key}", byte_size=size))
    yield path
    stub.SystemSharedMemoryUnregister(oi.SystemSharedMemoryUnregisterRequest())


def place(message, size: int, offset: int = 0, region: str = "tensors"):
    message.parameters["shared_memory_region"].string_param = region
    message.parameters["shared_memory_byte_size"].int64_param = size
    message.parameters["shared_memory_offset"].int64_param = offset
    return message


def infer_request(size: int = FRAME.nbytes, offset: int = 0, region: str = "tensors") -> oi.ModelInferRequest:
    request = oi.ModelInferRequest(model_name="agvas")
    place(request.inputs.add(name="FRAME", datatype="UINT8", shape=FRAME.shape), size, offset, region)
    request.outputs.add(name="MASK")
    return request


def code_and_text(call, *arguments) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return caught.value.code(), caught.value.details()


def open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_triton_s_own_shared_memory_takes_frames_and_masks(asking, key):
    triton = pytest.importorskip("tritonclient.grpc")
    from tritonclient.utils import shared_memory

    plain = triton.InferInput("FRAME", FRAME.shape, "UINT8")
    plain.set_data_from_numpy(FRAME)
    expected = asking.infer("agvas", [plain])
    size = FRAME.nbytes + 5 * HEIGHT * WIDTH
    handle = shared_memory.create_shared_memory_region("all", f"/{key}", size)
    try:
        asking.register_system_shared_memory("all", f"/{key}", size)
        status = asking.get_system_shared_memory_status("all", as_json=True)["regions"]["all"]
        assert (status["key"], int(status["byte_size"])) == (f"/{key}", size)
        shared_memory.set_shared_memory_region(handle, [FRAME])
        shared = triton.InferInput("FRAME", FRAME.shape, "UINT8")
        shared.set_shared_memory("all", FRAME.nbytes)
        outputs = [triton.InferRequestedOutput(name) for name in ("MASK", "VERDICT", "PROBABILITY")]
        outputs[0].set_shared_memory("all", HEIGHT * WIDTH, FRAME.nbytes)
        outputs[2].set_shared_memory("all", 4 * HEIGHT * WIDTH, FRAME.nbytes + HEIGHT * WIDTH)
        found = asking.infer("agvas", [shared], outputs=outputs)
        assert found.as_numpy("VERDICT").tolist() == [b"REJECT"]
        mask = shared_memory.get_contents_as_numpy(handle, np.uint8, [HEIGHT, WIDTH], FRAME.nbytes)
        np.testing.assert_array_equal(mask, expected.as_numpy("MASK"))
        behind = FRAME.nbytes + HEIGHT * WIDTH
        map_ = shared_memory.get_contents_as_numpy(handle, np.float32, [HEIGHT, WIDTH], behind)
        np.testing.assert_array_equal(map_, expected.as_numpy("PROBABILITY"))
        assert found.get_output("MASK").parameters["shared_memory_byte_size"].int64_param == HEIGHT * WIDTH
        asking.unregister_system_shared_memory("all")
        assert not asking.get_system_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_an_encoded_image_may_lie_in_a_region_with_room_to_spare(stub, memory, photo):
    content = photo.read_bytes()
    memory.write_bytes(len(content).to_bytes(4, "little") + content + bytes(FRAME.nbytes * 4))
    request = oi.ModelInferRequest(model_name="agvas")
    place(request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1]), len(content) + 100)
    request.outputs.add(name="VERDICT")
    assert stub.ModelInfer(request).raw_output_contents == [b"\6\0\0\0REJECT"]


def test_a_caller_who_cuts_the_memory_off_gets_an_error_and_harms_nobody(live, stub, memory):
    expected = stub.ModelInfer(infer_request())
    os.truncate(memory, FRAME.nbytes - 1)
    code, text = code_and_text(stub.ModelInfer, infer_request())
    assert code is Code.INVALID_ARGUMENT
    assert text.startswith(f"model agvas, input FRAME: region tensors: found its end after {FRAME.nbytes - 1} bytes")
    os.truncate(memory, 0)
    assert code_and_text(stub.ModelInfer, infer_request())[0] is Code.INVALID_ARGUMENT
    memory.write_bytes(FRAME.tobytes())
    request = infer_request()
    place(request.outputs[0], HEIGHT * WIDTH, FRAME.nbytes)  # where there is nothing any more
    stub.ModelInfer(request)
    assert memory.read_bytes()[FRAME.nbytes :] == expected.raw_output_contents[0]
    assert live.serving()


def test_memory_that_is_cut_off_while_a_frame_waits_harms_nobody(live, stub, memory):
    request = infer_request()
    place(request.outputs[0], HEIGHT * WIDTH, FRAME.nbytes)
    with live.frozen():
        call = stub.ModelInfer.future(request)
        until(lambda: live.accepted == 1)
        os.truncate(memory, 0)
    assert call.result().outputs[0].name == "MASK"
    stub.SystemSharedMemoryUnregister(oi.SystemSharedMemoryUnregisterRequest())


@pytest.mark.parametrize(
    ("size", "offset", "expected"),
    [
        (32399, 0, "found 32399 bytes, expected 32400 for UINT8 [90,120,3]"),
        (32401, 0, "found 32401 bytes in shared memory, expected at most 32400"),
        (32400, 10**6, "region tensors: found 32400 bytes at 1000000, expected them within its 118800 bytes"),
        (32400, -1, "region tensors: found 32400 bytes at -1, expected them within its 118800 bytes"),
        (-1, 1, "region tensors: found -1 bytes at 1, expected them within its 118800 bytes"),
        (2**63 - 1, 2**63 - 1, "region tensors: found 9223372036854775807 bytes at 9223372036854775807, "),
    ],
)
def test_a_part_that_is_not_in_the_region_is_refused(stub, memory, size, offset, expected):
    code, text = code_and_text(stub.ModelInfer, infer_request(size, offset))
    assert code is Code.INVALID_ARGUMENT
    assert text.startswith(f"model agvas, input FRAME: {expected}")


def test_an_output_that_does_not_fit_into_its_memory_is_refused(stub, memory):
    request = infer_request()
    place(request.outputs[0], HEIGHT * WIDTH - 1, FRAME.nbytes)
    code, text = code_and_text(stub.ModelInfer, request)
    assert code is Code.INVALID_ARGUMENT
    assert text == "model agvas, output MASK: found 10799 bytes of shared memory, expected 10800"
    assert not any(memory.read_bytes()[FRAME.nbytes :])


def test_a_region_that_nobody_registered_is_not_found(stub):
    code, text = code_and_text(stub.ModelInfer, infer_request(region="other"))
    assert (code, text) == (Code.NOT_FOUND, "region other: found none of this name, expected a registered one")
    status = oi.SystemSharedMemoryStatusRequest(name="other")
    assert code_and_text(stub.SystemSharedMemoryStatus, status)[0] is Code.NOT_FOUND
    stub.SystemSharedMemoryUnregister(oi.SystemSharedMemoryUnregisterRequest(name="other"))  # as Triton does


def test_sizes_without_a_region_are_refused(stub):
    request = infer_request()
    del request.inputs[0].parameters["shared_memory_region"]
    assert "expected shared_memory_region as well" in code_and_text(stub.ModelInfer, request)[1]
    request = infer_request()
    request.inputs[0].parameters["shared_memory_byte_size"].string_param = "many"
    assert "expected a string and integers" in code_and_text(stub.ModelInfer, request)[1]


@pytest.mark.parametrize("peer", ["ipv4:10.0.0.7:1234", "ipv6:%5B2001:db8::7%5D:1234"])
def test_callers_on_other_machines_have_no_shared_memory(stub, memory, monkeypatch, peer):
    register = oi.SystemSharedMemoryRegisterRequest(name="x", key="/agvas-x", byte_size=1)
    monkeypatch.setattr("grpc._server._Context.peer", lambda context: peer)
    for call, request in (
        (stub.SystemSharedMemoryRegister, register),
        (stub.SystemSharedMemoryStatus, oi.SystemSharedMemoryStatusRequest()),
        (stub.SystemSharedMemoryUnregister, oi.SystemSharedMemoryUnregisterRequest()),
        (stub.ModelInfer, infer_request()),
    ):
        code, text = code_and_text(call, request)
        assert (code, text) == (Code.PERMISSION_DENIED, "shared memory is for callers on the server's own machine")


KEYS = [
    "other",
    "/other",
    "/agvas-",
    "/agvas-a/../../etc/passwd",
    "agvas-/x",
    "//agvas-x",
    "",
    "/agvas-\n",
    "/agvas-\u00e4",
]


@pytest.mark.parametrize("wrong", [*KEYS, "/agvas-" + "x" * 65])
def test_keys_that_are_none_of_ours_are_refused(regions, wrong):
    with pytest.raises(InputError, match=r"^key: found .*, expected '/agvas-' and 1 to 64 letters, digits"):
        regions.register("", "a", wrong, 0, 1)


@pytest.mark.parametrize("wrong", ["", "x" * 129, "a\nb", "\u00e4"])
def test_names_that_are_not_fit_for_a_log_are_refused(regions, wrong):
    with pytest.raises(InputError, match=r"^name: found"):
        regions.register("", wrong, "/agvas-x", 0, 1)


def test_what_is_no_memory_of_the_server_s_user_is_refused(regions, key, tmp_path, monkeypatch):
    path, other = SHM / key, tmp_path / "secret"
    other.write_bytes(b"secret")

    def refused(expected: str, kind: type[Exception] = InputError) -> None:
        with pytest.raises(kind, match=expected):
            regions.register("", "a", f"/{key}", 0, 6)
        assert str(path) not in open_files()

    refused(f"^key: found no shared memory /{key}, expected one", NotFound)
    path.symlink_to(other)
    refused(f"^key: /{key} cannot be opened: too many levels of symbolic links")
    path.unlink()
    os.mkfifo(path)
    refused("which is no file of shared memory by one name")
    path.unlink()
    path.mkdir()
    refused("cannot be opened: is a directory")
    path.rmdir()
    path.write_bytes(b"memory")
    second = SHM / f"{key}-2"
    second.hardlink_to(path)
    refused("which is no file of shared memory by one name")
    second.unlink()
    monkeypatch.setattr(regions_module.os, "geteuid", lambda: 12345)
    refused(f"of user {os.getuid()}, expected one of the server's, 12345")


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 7), (6, 1), (2**64 - 1, 1), (0, 2**64 - 1)])
def test_a_region_lies_within_its_file(regions, key, offset, size):
    (SHM / key).write_bytes(b"memory")
    with pytest.raises(
        InputError, match=rf"^byte_size: found {size} at {offset}, expected at least 1, within the 6 bytes"
    ):
        regions.register("", "a", f"/{key}", offset, size)


def test_a_region_is_a_part_of_its_file_and_nothing_else(regions, key):
    (SHM / key).write_bytes(b"..memory..")
    regions.register("", "a", f"/{key}", 2, 6)
    region = regions.get("", "a")
    assert region.read(0, 6) == b"memory"
    region.write(3, memoryview(b"ORY"))
    assert (SHM / key).read_bytes() == b"..memORY.."
    for act in (lambda: region.read(1, 6), lambda: region.write(-1, b"x"), lambda: region.write(5, b"xy")):
        with pytest.raises(InputError, match="expected them within its 6 bytes"):
            act()


def test_a_name_is_taken_until_it_is_given_back_and_the_file_is_closed(regions, key):
    path = SHM / key
    path.write_bytes(b"memory")
    regions.register("", "a", f"/{key}", 0, 6)
    with pytest.raises(NotNow, match=r"^region a: it is registered already; unregister it first"):
        regions.register("", "a", f"/{key}", 0, 6)
    used = regions.get("", "a")
    regions.unregister("", "a")
    with pytest.raises(NotFound):
        regions.get("", "a")
    assert used.read(0, 6) == b"memory"  # whoever has it may finish
    assert str(path) in open_files()
    del used
    assert str(path) not in open_files()


def test_everybody_has_regions_of_their_own(regions, key):
    (SHM / key).write_bytes(b"memory")
    regions.register("camera-1", "a", f"/{key}", 0, 6)
    regions.register("camera-2", "a", f"/{key}", 0, 3)
    assert [region.size for region in regions.all("camera-1")] == [6]
    with pytest.raises(NotFound):
        regions.get("", "a")
    regions.unregister("camera-2", "")
    assert (len(regions.all("camera-1")), len(regions.all("camera-2"))) == (1, 0)


def test_regions_are_bounded_in_bytes_and_number_and_the_dead_make_room(key):
    path = SHM / key
    path.write_bytes(bytes(1000))
    regions = Regions(1500)
    regions.register("", "first", f"/{key}", 0, 1000)
    with pytest.raises(
        TooMuch, match=r"^region second: found 1 regions of 1000 bytes in all, expected at most 64 of 1500"
    ):
        regions.register("", "second", f"/{key}", 0, 501)
    path.unlink()
    path.write_bytes(bytes(1000))
    regions.register("", "second", f"/{key}", 0, 501)
    assert [region.name for region in regions.all("")] == ["second"]
    regions.unregister("", "")
    for index in range(MOST_REGIONS):
        regions.register("", str(index), f"/{key}", 0, 1)
    with pytest.raises(TooMuch):
        regions.register("", "more", f"/{key}", 0, 1)


def test_the_server_s_end_closes_all_files(key):
    path = SHM / key
    path.write_bytes(b"memory")
    with live_server() as live:
        stub = oi_grpc.GRPCInferenceServiceStub(live.channel)
        stub.SystemSharedMemoryRegister(oi.SystemSharedMemoryRegisterRequest(name="a", key=key, byte_size=6))
        assert str(path) in open_files()
    assert str(path) not in open_files()
