"""Each trigger is one part: it gets no other's frame, and where its frame was lost the camera's numbers tell it."""

from threading import Event
from unittest.mock import MagicMock

import pytest

from agvas_runtime.camera import aravis_grabber, gentl, pylon
from agvas_runtime.camera.source import MOST_MISSING, NO_NUMBER, CaptureOptions, FrameNumbers
from tests.runtime.camera_line import first_frames, needs

TRIGGERED = CaptureOptions(trigger="software", fps=0)


class LateCamera:
    """Its second frame does not come in time, but with the next one unless the acquisition is begun anew."""

    def __init__(self) -> None:
        self.triggers, self.late, self.there = 0, [], []

    def trigger(self) -> None:
        self.triggers += 1
        if self.triggers == 2:
            self.late = [2]
        else:
            self.there, self.late = [*self.there, *self.late, self.triggers], []

    def stop(self) -> None:
        self.there, self.late = [], []

    def frame(self) -> int | None:
        return self.there.pop(0) if self.there else None


def through_pylon(camera: LateCamera) -> list[int | None]:
    """Which trigger's frame each trigger gets; None where it gets none."""
    needs("pypylon")

    def result(*_):
        number = camera.frame()
        found = MagicMock(BlockID=number, Width=2, Height=2, PaddingX=0)
        found.IsValid.return_value = number is not None
        found.GetBuffer.return_value = bytes(4)
        return found

    driver = MagicMock()
    driver.PixelFormat.Value = "Mono8"
    driver.IsCameraDeviceRemoved.return_value = False
    driver.TriggerSoftware.Execute, driver.StopGrabbing, driver.RetrieveResult = camera.trigger, camera.stop, result
    return numbers(pylon.PylonSource("", TRIGGERED)._grab(driver, Event()))


def through_gentl(camera: LateCamera) -> list[int | None]:
    needs("harvesters")

    def fetch(**_):
        number = camera.frame()
        if number is None:
            return None
        buffer = MagicMock()
        buffer.module.frame_id = number
        component = MagicMock(width=2, height=2, x_padding=0)
        buffer.payload.components = [component]
        component.data.tobytes.return_value = bytes(4)
        return buffer

    driver = MagicMock()
    driver.remote_device.node_map.PixelFormat.value = "Mono8"
    driver.remote_device.node_map.TriggerSoftware.execute = camera.trigger
    driver.stop, driver.try_fetch = camera.stop, fetch
    return numbers(gentl.GenTLSource("viky.cti", "", TRIGGERED)._grab(driver, Event()))


def numbers(captured) -> list[int | None]:
    return [int(each.trigger_id) if each.trigger_id else None for each, _ in zip(captured, range(4), strict=False)]


def through_aravis(camera: LateCamera, monkeypatch) -> list[int | None]:
    found: list[int | None] = []
    ended, stream, driver = Event(), MagicMock(), MagicMock()

    def tell(number: int | None) -> None:
        found.append(number)
        if len(found) == 4:
            ended.set()

    stream.timeout_pop_buffer.side_effect = lambda _: camera.frame()
    stream.try_pop_buffer.side_effect = camera.frame
    driver.software_trigger, driver.stop_acquisition = camera.trigger, camera.stop
    monkeypatch.setattr(aravis_grabber, "Aravis", MagicMock())
    monkeypatch.setattr(aravis_grabber, "open_stream", lambda _: stream)
    monkeypatch.setattr(aravis_grabber, "tell_frame", lambda buffer, _: tell(buffer))
    monkeypatch.setattr(aravis_grabber, "tell", lambda message: tell(None))
    aravis_grabber.grab(driver, {"trigger": "software", "fps": 0}, ended)
    return found


@pytest.mark.parametrize("through", [through_pylon, through_gentl, through_aravis])
def test_behind_a_frame_that_is_late_each_trigger_gets_its_own(through, monkeypatch):
    given = (monkeypatch,) if through is through_aravis else ()
    assert through(LateCamera(), *given) == [1, None, 3, 4]


def test_a_late_frame_of_a_pylon_camera_is_nobody_s(monkeypatch):
    needs("pypylon")
    monkeypatch.setenv("PYLON_CAMEMU", "1")
    monkeypatch.setattr(pylon, "FRAME_S", 0.1)
    options = CaptureOptions(trigger="software", fps=0, features={"ExposureTimeAbs": "1000000"})
    found = first_frames(
        pylon.PylonSource("", options), 8
    )  # the first trigger's frame would come to the fifth or sixth
    assert [each.image for each in found] == [None] * 8


def lost_before(*numbers: int) -> list[list[str]]:
    """What is found missing before each of these frames."""
    counter = FrameNumbers()
    return [[each.trigger_id for each in counter.missing(number)] for number in numbers]


def test_frames_that_never_arrived_are_noticed_by_their_numbers():
    assert lost_before(7, 8, 11, 65535, 1, 2) == [[], [], ["9", "10"], ["12-65534"], [], []]


def test_each_frame_of_a_long_gap_is_a_part_and_what_is_beyond_all_measure_is_one_that_says_so():
    counter = FrameNumbers()
    assert [len(list(counter.missing(number))) for number in (1, MOST_MISSING + 2, 5_000_000)] == [0, MOST_MISSING, 1]
    (told,) = counter.missing(7_000_000)
    assert told.broken == "1999999 frames of the camera, 5000001 to 6999999, never arrived"


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ((65533, 2), ["65534", "65535", "1"]),
        ((65535, 1), []),
        ((65535, 3), ["1", "2"]),
        ((70_000, 3), []),  # a counter with more than 16 bits has begun anew
        ((60_000, 3), []),
        ((9, 9), []),
        ((9, NO_NUMBER, 12), ["11"]),
    ],
)
def test_a_number_that_is_not_larger_is_behind_65535_or_of_a_counter_that_began_anew(numbers, lost):
    assert lost_before(*numbers)[-1] == lost
