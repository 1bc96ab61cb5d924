"""The fault drill in its short form: every event of the long one, less time between them."""

from tools.fault_drill import MOST_GROWTH, RATES, drill
from tools.resident import TRIMMED_S


def test_every_frame_has_its_one_answer_though_everything_goes_wrong_at_once():
    report = drill(seconds=8, kills=3, shadow=5, idle_s=TRIMMED_S)
    assert report["faults"] == []
    assert len(report["cameras"]) == len(RATES) == 8
    assert report["frames"] == report["answers"] > 0
    events = [event["event"] for event in report["events"]]
    assert events.count("engine killed") == 3
    assert {"garbage sent", "recipe rewritten", "client vanished", "swap"} < set(events)
    assert report["frames of the client that does not read"] > 0
    assert all(camera["statuses"].get("OK") and camera["heartbeats"] for camera in report["cameras"])
    assert len({bundle for camera in report["cameras"] for bundle in camera["bundles"]}) == 2
    assert report["memory_bytes"]["ratio"] <= MOST_GROWTH == 1.05
