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


def test_enum_values_carry_their_enum_s_name_and_zero_means_unspecified():
    from agvas_runtime.proto.agvas.v1 import inspection_pb2

    for enum in inspection_pb2.DESCRIPTOR.enum_types_by_name.values():
        prefix = "".join(f"_{char}" if char.isupper() else char.upper() for char in enum.name).lstrip("_")
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)
