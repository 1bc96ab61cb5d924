"""The checked-in gRPC stubs are what the proto generates."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
STUBS = REPOSITORY / "agvas_runtime" / "proto"


def test_the_stubs_are_generated_from_the_proto(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed; `make test` installs it")
    script = REPOSITORY / "protos" / "generate.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(STUBS) for path in STUBS.rglob("*_pb2*") if path.suffix in (".py", ".pyi")}
    assert made == kept
    for name in made:
        assert (tmp_path / name).read_text() == (STUBS / name).read_text(), f"{name}: run `make proto`"


def test_the_protocol_has_the_modes_of_the_runtime_and_no_others():
    from agvas_runtime.modes import Mode
    from agvas_runtime.proto.agvas.v1 import inspection_pb2
    from agvas_runtime.server.requests import MODES

    assert list(MODES.values()) == list(Mode)
    assert {*MODES, inspection_pb2.MODE_UNSPECIFIED} == set(inspection_pb2.Mode.values())


def test_a_way_of_writing_has_the_runtime_s_fields_and_by_default_asks_for_the_text():
    from agvas_runtime.proto.agvas.v1 import inspection_pb2
    from agvas_runtime.server.requests import decoding_of
    from agvas_runtime.wire import decoding_to
    from agvas_runtime.writer import Decoding

    assert {*inspection_pb2.Decoding.DESCRIPTOR.fields_by_name} == {*Decoding.model_fields, "no_text"} - {"text"}
    assert decoding_of(inspection_pb2.SegmentRequest()) == Decoding()
    other = Decoding(text=False, max_new_tokens=7, temperature=0.5, top_p=0.25, seed=2**63, strict_below=0.125)
    assert decoding_of(inspection_pb2.SegmentRequest(decoding=decoding_to(other))) == other


def test_enum_values_carry_their_enum_s_name_and_zero_means_unspecified():
    from agvas_runtime.proto.agvas.v1 import inspection_pb2

    for enum in inspection_pb2.DESCRIPTOR.enum_types_by_name.values():
        prefix = "".join(f"_{char}" if char.isupper() else char.upper() for char in enum.name).lstrip("_")
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)
