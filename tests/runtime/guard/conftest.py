"""Guarded servers with and without an access file."""

import pytest

from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.access import Access
from agvas_runtime.server.channel import open_channel
from tests.runtime.guard.server import (
    ENTRIES,
    access_text,
    running,
)


@pytest.fixture(scope="module")
def access_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("access") / "access.yaml"
    path.write_text(access_text(*ENTRIES))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def guarded(access_path):
    """A server with an access file."""
    with running(Access(access_path)) as server:
        yield server


@pytest.fixture(scope="module")
def free():
    """A server without one."""
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def _as_new(request):
    for name in {"guarded", "free"} & set(request.fixturenames):
        server = request.getfixturevalue(name)
        server.inspection.error = None
        while not server.inspection.seen.empty():
            server.inspection.seen.get()


@pytest.fixture(scope="module")
def stub(free):
    with open_channel(free.address) as channel:
        yield pb_grpc.InspectionStub(channel)
