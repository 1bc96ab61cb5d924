"""Generates the checked-in gRPC stubs: `python protos/generate.py [OUT]` (default: agvas_runtime/proto).

Needs grpcio-tools 1.72.0: its code runs under protobuf 6 and 7 alike, that of newer versions does not. protoc writes
imports from the proto's own root (`agvas.v1`); they are moved to the package where the stubs live.
"""

import re
import sys
from importlib.metadata import version
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = "agvas_runtime.proto"
DEFAULT_OUT = PROTOS.parent / "agvas_runtime" / "proto"
GRPC_TOOLS = "1.72.0"


def generate(out: Path) -> list[Path]:
    """Write the stubs of every proto below `out` and return the files written."""
    found = version("grpcio-tools")
    if found != GRPC_TOOLS:
        raise SystemExit(f"error: grpcio-tools {found} is installed, expected {GRPC_TOOLS}")
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for proto in sorted(PROTOS.rglob("*.proto")):
        name = proto.relative_to(PROTOS)
        include = Path(protoc.__file__).parent / "_proto"
        flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{PROTOS}", f"-I{include}", *flags, str(proto)]) != 0:
            raise SystemExit(f"error: protoc failed on {name}")
        stem = (out / name).with_suffix("")
        files = [stem.with_name(stem.name + suffix) for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")]
        for file in files:
            text = file.read_text(encoding="utf-8")
            file.write_text(re.sub(r"^from (agvas\.v\d+)", rf"from {PACKAGE}.\1", text, flags=re.M), encoding="utf-8")
        written.extend(files)
    return written


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUT):
        print(path)
