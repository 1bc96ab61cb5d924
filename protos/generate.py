"""Generates the checked-in gRPC stubs: `python protos/generate.py [OUT]` (default: agvas_runtime/proto).

Needs grpcio-tools 1.72.0: its code runs under protobuf 6 and 7 alike, that of newer versions does not. protoc writes
imports from the proto's own root (`agvas.v1`, `inference`); they are moved to the package where the stubs live.

Types of `inference` are public: every client of that protocol brings its own under the same names, and protobuf takes a
name once a process. So ours are made in a pool of their own, `DESCRIPTOR.pool`.
"""

import re
import sys
from importlib.metadata import version
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = "agvas_runtime.proto"
DEFAULT_OUT = PROTOS.parent / "agvas_runtime" / "proto"
GRPC_TOOLS = "1.72.0"
PRIVATE = "inference"
IN_ITS_OWN_POOL = '''"""Generated protocol buffer code, in a pool of its own: see protos/generate.py."""
# source: {source}
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(
    {content}
)
DESCRIPTOR = _pool.FindFileByName({source!r})
for _name, _type in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_type)
for _name, _type in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = enum_type_wrapper.EnumTypeWrapper(_type)
    globals().update({{value.name: value.number for value in _type.values}})
'''


def generate(out: Path) -> list[Path]:
    """Write the stubs of every proto below `out` and return the files written."""
    found = version("grpcio-tools")
    if found != GRPC_TOOLS:
        raise SystemExit(f"error: grpcio-tools {found} is installed, expected {GRPC_TOOLS}")
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for proto in sorted(PROTOS.rglob("*.proto")):
        name = proto.relative_to(PROTOS)
        stem = (out / name).with_suffix("")
        files = [stem.with_name(stem.name + suffix) for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")]
        _protoc(name, *(f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")))
        for file in files:
            text = file.read_text(encoding="utf-8")
            moved = re.sub(r"^from (agvas\.v\d+|inference) ", rf"from {PACKAGE}.\1 ", text, flags=re.M)
            file.write_text(moved, encoding="utf-8")
        if name.parts[0] == PRIVATE:
            files[0].write_text(_in_its_own_pool(name, stem), encoding="utf-8")
        written.extend(files)
    return written


def _protoc(name: Path, *flags: str) -> None:
    include = Path(protoc.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{include}", *flags, str(PROTOS / name)]) != 0:
        raise SystemExit(f"error: protoc failed on {name}")


def _in_its_own_pool(name: Path, stem: Path) -> str:
    """The module of a proto that imports no other."""
    described = stem.with_suffix(".described")
    _protoc(name, f"--descriptor_set_out={described}")
    [file] = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    described.unlink()
    content = file.SerializeToString(deterministic=True)
    return IN_ITS_OWN_POOL.format(source=file.name, content=content)


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUT):
        print(path)
