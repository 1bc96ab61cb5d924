"""What a server is told reaches what does it: credentials, certificates, rate, metrics, recipes that come later."""

import re
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
import trustme

from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import open_channel
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.serve import InspectionServer
from tests.runtime.live_server import live_server, request, until
from tests.runtime.test_access import entry, written
from tests.runtime.test_tls import pair, store

OK, DENIED, UNKNOWN = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
ABSENT = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Certificates of the server and of a camera, an access file with a camera and an operator."""
    folder, authority = tmp_path_factory.mktemp("files"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    store(authority.issue_cert("127.0.0.1"), folder, "server")
    store(authority.issue_cert("camera.line", common_name="camera"), folder, "camera")
    written(folder / "access.yaml", entry("camera") + entry("operator", "[admin]"))
    return folder


def codes(live, **credentials) -> tuple[grpc.StatusCode, grpc.StatusCode]:
    """How a call that inspects ends, and one that needs the right admin."""

    def code(call, message):
        try:
            call(message, timeout=20)
        except grpc.RpcError as error:
            return error.code()
        return OK

    with open_channel(live.address, shared=False, **credentials) as channel:
        model = code(pb_grpc.InspectionStub(channel).GetModel, pb.GetModelRequest())
        return model, code(admin_pb2_grpc.AdminStub(channel).GetStatistics, admin_pb2.GetStatisticsRequest())


def test_tls_and_tokens_are_asked_of_every_caller(files):
    certificate = {"tls_cert": files / "server.pem", "tls_key": files / "server.key"}
    with live_server(**certificate, access=files / "access.yaml") as live:
        ca = files / "ca.pem"
        assert codes(live) == (ABSENT, ABSENT)  # in the clear
        assert codes(live, ca=ca) == (UNKNOWN, UNKNOWN)
        assert codes(live, ca=ca, token="stranger") == (UNKNOWN, UNKNOWN)
        assert codes(live, ca=ca, token="camera") == (OK, DENIED)
        assert codes(live, ca=ca, token="operator") == (DENIED, OK)


def test_client_certificates_are_asked_for_and_may_inspect(files):
    certificate = {"tls_cert": files / "server.pem", "tls_key": files / "server.key"}
    with live_server(**certificate, client_ca=files / "ca.pem") as live:
        assert codes(live, ca=files / "ca.pem") == (ABSENT, ABSENT)
        assert codes(live, ca=files / "ca.pem", **pair(files, "camera")) == (OK, DENIED)


def test_calls_beyond_the_rate_are_refused():
    with live_server(rate_per_s=0.5) as live:
        live.inspection.Segment(request())
        with pytest.raises(grpc.RpcError) as refused:
            live.inspection.Segment(request())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_health_readiness_and_metrics_follow_the_server():
    with live_server(metrics_port=0) as live:

        def get(path: str) -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{live.server.metrics_port}{path}", timeout=20) as reply:
                    return reply.status, reply.read().decode()
            except HTTPError as error:
                return error.code, error.read().decode()

        assert get("/readyz")[0] == get("/healthz")[0] == 200
        live.inspection.Segment(request())
        until(lambda: re.search(r"^agvas_frames_total\{.*\} 1\.0$", get("/metrics")[1], re.MULTILINE))
        live.kill()
        until(lambda: get("/readyz")[0] == 503)
        assert get("/healthz")[0] == 200
        until(lambda: get("/readyz")[0] == 200)
        live.admin.Drain(admin_pb2.DrainRequest())
        assert get("/readyz") == (503, "the server is drained: it takes no new frames\n")
        assert get("/healthz")[0] == 200


def test_a_recipe_that_is_written_later_is_used_without_being_asked_for(tmp_path):
    with live_server(recipes=tmp_path) as live:

        def name() -> str:
            try:
                return live.inspection.Segment(request(recipe_name="later")).recipe_name
            except grpc.RpcError as error:
                return error.details()

        assert "found 'later', expected none" in name()
        (tmp_path / "later.yaml").write_text("min_area_px: 7\n")
        until(lambda: name() == "later")


def test_before_the_first_engine_is_ready_there_is_none_of_each_device_and_nothing_is_logged(caplog):
    server = InspectionServer(ServerConfig(port=0, metrics_port=0, devices=("0", "0", "1")))
    try:
        with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=20) as reply:
            text = reply.read().decode()
    finally:
        server.stop()
    assert re.findall(r"^agvas_engine_ready.*", text, re.MULTILINE) == [
        'agvas_engine_ready{device="0"} 0.0',
        'agvas_engine_ready{device="1"} 0.0',
    ]
    assert "agvas_bundle_info" not in text
    assert "cannot be measured" not in caplog.text
