"""The arrows between the packages, and that nothing of the runtime pulls in torch."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import agvas_runtime
names = [found.name for found in pkgutil.walk_packages(agvas_runtime.__path__, "agvas_runtime.")]
for name in names:
    importlib.import_module(name)
heavy = {"torch", "transformers", "peft", "accelerate", "onnx", "agvas_train", "agvas_export"} & set(sys.modules)
assert not heavy, heavy
print(len(names))
"""

IMPORT_COMMAND = """
import sys
import agvas_runtime.cli
late = {"grpc", "onnxruntime", "agvas_runtime.segmenter"} & set(sys.modules)
assert not late, late
"""

IMPORT_SERVER = """
import sys
import agvas_runtime.server.serve
engines = {"onnxruntime", "tensorrt"} & set(sys.modules)
assert not engines, engines
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_packages_import_in_one_direction_only():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_of_the_runtime_imports_torch():
    done = python(IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_the_command_imports_heavy_modules_only_where_it_uses_them():
    done = python(IMPORT_COMMAND)
    assert done.returncode == 0, done.stderr


def test_the_server_s_own_process_imports_no_engine():
    done = python(IMPORT_SERVER)
    assert done.returncode == 0, done.stderr
