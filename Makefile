# The commands of this repository. `make demo` and `make test` need Python, make and a package registry, nothing else.

PYTHON ?= python3
FRAMES ?=
OUT ?= demo-out
PIP = -m pip install -q --disable-pip-version-check -c constraints.txt
# Its stubs run under protobuf 6 and 7 alike. It asks for protobuf 6 without needing it, hence --no-deps where it is used.
GRPC_TOOLS = grpcio-tools==1.72.0
# Triton's client asks for protobuf 6 and an older ml_dtypes, and works with ours.
TRITON_CLIENT = tritonclient==2.73.0 python-rapidjson==1.25

.PHONY: demo test test-installs test-runtime test-rest test-full proof proof-full-size proof-export proof-single-pass proof-single-pass-bench
.PHONY: proof-drill proof-fuzz proof-serving proof-frames proof-web proof-perf-analyzer proof-compare proof-instruct proof-mixture proof-tiny lint proto demo-frames clean

# Starts the server with the embedded bundle, plays frames to it, stops it. FRAMES=folder plays your own images.
demo: .venv/installed
	@.venv/bin/python -m agvas_runtime.demo $(if $(FRAMES),--frames "$(FRAMES)") --out "$(OUT)"

# Lint, types, import directions and every test in its short form.
test: lint .venv-kserve/installed
	@$(MAKE) --no-print-directory -j3 test-installs test-runtime test-rest

# Beside the others: the first mostly wait for downloads, the second for their servers. What they say is shown when they are done.
test-installs: WHICH = -m "installs and not slow"
test-runtime: WHICH = -m "not installs and not slow" tests/runtime
test-installs test-runtime:
	@mkdir -p .pytest_cache
	@.venv-test/bin/python -m pytest $(WHICH) >.pytest_cache/$@.log 2>&1; \
	status=$$?; echo; cat .pytest_cache/$@.log; exit $$status

test-rest:
	@.venv-test/bin/python -m pytest -m "not installs and not slow" --ignore tests/runtime

# The same at the sizes that the issues name; hours, not minutes.
test-full: lint proof proof-full-size proof-export proof-single-pass proof-single-pass-bench \
           proof-drill proof-fuzz proof-serving proof-frames proof-web proof-perf-analyzer proof-compare proof-instruct proof-mixture proof-tiny
	.venv-test/bin/python -m pytest

# The figures behind the README, on an idle machine: benchmarks/full/<date>-<commit>.json.
proof: .venv/installed
	.venv/bin/python tools/proof.py

# What the embedded model finds and says, and what its parts bring: half an hour on two idle cores.
proof-tiny: .venv-test/installed
	.venv-test/bin/python tools/tiny_proof.py

# Building, planting, loading, merging and training at full size: an hour, 24 GiB of memory, 55 GB of disk.
proof-full-size: .venv-test/installed
	.venv-test/bin/python tools/full_size.py --preset 0.5b
	.venv-test/bin/python tools/full_size.py --preset 7b

# Exporting at full size: 0.5b in every precision, SAM ViT-H; an hour and a half, 20 GiB of memory, 20 GB of disk.
proof-export: .venv-test/installed
	.venv-test/bin/python tools/full_export.py

# The single pass against token-by-token decoding over 1,000 pairs, memory over 10,000 frames: half an hour.
proof-single-pass: .venv-test/installed
	.venv-test/bin/python tools/single_pass.py

# The single pass beside its rivals, tiny and 0.5b: two idle cores, 20 GiB of memory, 25 GB of disk.
proof-single-pass-bench: .venv-test/installed
	.venv-test/bin/python tools/single_pass_bench.py

# Everything goes wrong at once for a minute: does every frame get its one answer, in order?
proof-drill: .venv-test/installed
	.venv-test/bin/python tools/fault_drill.py

# 100,000 hostile requests to a running server: does each get what the protocol says? A quarter of an hour.
proof-fuzz: .venv-test/installed
	.venv-test/bin/python tools/fuzz.py

# Serving beside NVIDIA's Triton: x86-64 Linux, a Python with its shared libpython, ten minutes on two idle cores.
proof-serving: .venv-triton/installed
	.venv-triton/bin/python tools/serving_overhead.py

# What frames take by their size and pixel format: three minutes on two idle cores.
proof-frames: .venv-test/installed
	.venv-test/bin/python tools/frame_sizes.py

# Webs of 100,000 rows in blocks of many heights, and a server that inspects one: three minutes on two idle cores.
proof-web: .venv-test/installed
	.venv-test/bin/python tools/web_proof.py

# Triton's own load generator against the server: Debian's libb64-0d, x86-64 Linux, two minutes on two idle cores.
proof-perf-analyzer: .venv-perf/installed
	.venv-perf/bin/python tools/perf_analyzer.py

# Planted slow-downs: does `agvas-bench compare` find them, and nothing else? Eight minutes on a machine that does little else.
proof-compare: .venv-test/installed
	.venv-test/bin/python tools/compare_proof.py

# 10,000 instruct records through a failing endpoint, killed twice: none lost, none twice; again by two workers of Ray. Minutes, two cores.
proof-instruct: .venv-test/installed
	.venv-test/bin/python tools/instruct_proof.py
	.venv-test/bin/python tools/instruct_proof.py --ray 2

# Samples a second and memory of the paper's mixture, over miniatures and over lists of 100,000 images: ten minutes on an idle core.
proof-mixture: .venv-test/installed
	.venv-test/bin/python tools/mixture_throughput.py

lint: .venv-test/installed
	.venv-test/bin/ruff check
	.venv-test/bin/ruff format --check
	.venv-test/bin/mypy
	.venv-test/bin/lint-imports

# Generates the checked-in gRPC stubs anew.
proto: .venv-proto/installed
	.venv-proto/bin/python protos/generate.py

# Draws the demo's own frames anew, from the synthetic defects of agvas_train.
demo-frames: .venv-test/installed
	.venv-test/bin/python tools/demo_frames.py

# The torch-free runtime and nothing else.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) -e '.[cpu]'
	@touch $@

.venv-test/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP) -e '.[dev]'
	.venv-test/bin/python $(PIP) --no-deps $(GRPC_TOOLS) $(TRITON_CLIENT)
	@touch $@

# Both ask for older packages than they work with, hence --no-deps; the first line brings what they need here.
.venv-triton/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python $(PIP) -e '.[cpu]' ml-dtypes python-rapidjson==1.25
	.venv-triton/bin/python $(PIP) --no-deps nvidia-pytriton==0.7.0 tritonclient==2.73.0
	@touch $@

# KServe's client: it wants protobuf 6 and an older psutil, so it lives alone, and nothing of ours is installed beside it.
.venv-kserve/installed: Makefile
	$(PYTHON) -m venv .venv-kserve
	.venv-kserve/bin/python -m pip install -q --disable-pip-version-check --no-compile kserve==0.21.0
	@touch $@

# Triton's perf_analyzer is in this release of its client; the library of CUDA's runtime is all that it takes of CUDA.
.venv-perf/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-perf
	.venv-perf/bin/python $(PIP) -e '.[cpu]'
	.venv-perf/bin/python $(PIP) --no-deps tritonclient==2.50.0 nvidia-cuda-runtime-cu12==12.9.79
	@touch $@

.venv-proto/installed: Makefile
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install -q --disable-pip-version-check $(GRPC_TOOLS) setuptools
	@touch $@

clean:
	rm -rf .venv .venv-test .venv-proto .venv-triton .venv-kserve .venv-perf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo-out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
