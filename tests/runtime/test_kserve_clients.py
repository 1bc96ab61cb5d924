"""KServe's own client against the server, beside the stubs of agvas, and under protobuf 6."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from google.protobuf import __version__ as protobuf

from tests.conftest import REPOSITORY

PYTHON = REPOSITORY / ".venv-kserve" / "bin" / "python"
pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="the package kserve is not installed: make .venv-kserve/installed"
)


def run(*arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([PYTHON, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_kserves_client_gets_the_answers_that_ours_gets(server, client, photo):
    found = json.loads(run(Path(__file__).with_name("kserve_caller.py"), f"127.0.0.1:{server.port}", photo))
    assert found["ready"] == [True, True, True]
    reply = client.segment(photo)
    expected = {"shape": list(reply.mask.shape), "area": int(reply.mask.sum()), "verdict": reply.verdict.value}
    assert found["encoded"] == {"id": "encoded", **expected}
    assert found["raw"] == {**found["listed"], "id": "raw"}
    assert found["raw"]["shape"] == [48, 64]
    assert "model agvas, input FRAME: found datatype 'FP32', expected UINT8" in found["error"]


def test_our_types_and_those_of_kserves_client_live_in_one_process_under_protobuf_6():
    text = (
        "from kserve.protocol.grpc import grpc_predict_v2_pb2 as theirs\n"
        "from agvas_runtime.proto.agvas.v1 import inspection_pb2\n"
        "from agvas_runtime.proto.inference import open_inference_pb2 as ours\n"
        "from google.protobuf import __version__\n"
        "request = theirs.ModelInferRequest(model_name='agvas', raw_input_contents=[b'abc'])\n"
        "request.parameters['threshold'].string_param = '0.5'\n"
        "again = ours.ModelInferRequest.FromString(request.SerializeToString())\n"
        "assert again.raw_input_contents == [b'abc'] and again.parameters['threshold'].string_param == '0.5'\n"
        "print(__version__, inspection_pb2.Frame(encoded=b'x').encoded.decode())\n"
    )
    version, word = run("-c", text).split()
    assert (version.split(".")[0], word) == ("6", "x")
    assert protobuf.split(".")[0] == "7"  # that of all other tests
