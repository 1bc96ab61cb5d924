# Images without anything that their task does not need: `docker build --target runtime-cpu -t agvas .`
# tests/test_docker.py runs what can be run of them without a container engine.
#
# A published port does not lead to the container's own loopback, and a fresh image has neither certificate nor tokens,
# so the servers' command says --insecure. It is meant for a port that is published to 127.0.0.1, as docs/deployment.md
# does: who calls through that may inspect, not administer. For a network give another command, with TLS and
# credentials.

# The server on a CPU: no torch, no transformers.
FROM python:3.11-slim AS runtime-cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY agvas_runtime ./agvas_runtime
RUN pip install --no-cache-dir -c constraints.txt ".[cpu]" && rm -rf /src
RUN useradd --create-home --uid 10001 agvas
USER agvas
WORKDIR /home/agvas
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-m", "agvas_runtime.server.health"]
ENTRYPOINT ["agvas-runtime"]
CMD ["serve", "--host", "0.0.0.0", "--insecure"]

# The server on an NVIDIA GPU: the base brings CUDA and cuDNN for ONNX Runtime.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS runtime-gpu
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/agvas
ENV PATH=/opt/agvas/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY agvas_runtime ./agvas_runtime
RUN pip install --no-cache-dir -c constraints.txt ".[gpu]" && rm -rf /src
RUN useradd --create-home --uid 10001 agvas
USER agvas
WORKDIR /home/agvas
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "agvas_runtime.server.health"]
# `auto` would take the CPU: there is no TensorRT here.
ENV AGVAS_ENGINE=ort-cuda
ENTRYPOINT ["agvas-runtime"]
CMD ["serve", "--host", "0.0.0.0", "--insecure"]

# From a checkpoint to a bundle; runs once and ends, so its health check only says that the package is whole.
# torch's default wheel brings CUDA along; PIP_EXTRA_INDEX_URL may name an index that has the CPU build.
FROM python:3.11-slim AS export
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY agvas_runtime ./agvas_runtime
COPY agvas_train ./agvas_train
COPY agvas_export ./agvas_export
RUN pip install --no-cache-dir -c constraints.txt ".[export]" && rm -rf /src
RUN useradd --create-home --uid 10001 agvas
USER agvas
WORKDIR /home/agvas
HEALTHCHECK --interval=60s --timeout=30s CMD ["python", "-c", "import agvas_export"]
ENTRYPOINT ["agvas-export"]
CMD ["--help"]
