#!/usr/bin/env bash
# Wheels of what a GPU machine with torch, transformers and onnx still lacks, for one without a network:
# scripts/gpu/wheels.sh DIR, here; there: pip install --no-index --no-deps --target SITE DIR/*.whl, and SITE in PYTHONPATH.
set -eu
into=${1:?the folder for the wheels}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")/../.." && pwd)

# the versions that were tried together
pinned() { grep -iE "^$1==" "$here/constraints.txt" | head -1 | cut -d' ' -f1 | cut -d';' -f1; }

names=()
for name in pydantic pydantic_core annotated-types typing-inspection; do
  names+=("$(pinned "$name")")
done
# stubs that run with whatever grpcio and protobuf (6 or 7) lie there already, as our own do
names+=(grpcio-health-checking==1.72.0 grpcio-reflection==1.72.0)
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  -d "$into" "${names[@]}"
du -sh "$into"
ls "$into"
