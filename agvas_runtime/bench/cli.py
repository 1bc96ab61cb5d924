"""agvas-bench: the command line. Each command lives in a module of its own."""

from agvas_runtime import console
from agvas_runtime.bench.cli_compare import compare
from agvas_runtime.bench.cli_engine import engine
from agvas_runtime.bench.cli_report import report
from agvas_runtime.bench.cli_serve import serve

app = console.make_app("Measure latency, throughput and memory.")


@app.callback()
def _group() -> None:
    """Measure latency, throughput and memory."""


app.command()(engine)
app.command()(serve)
app.command()(report)
app.command()(compare)


def main() -> None:
    """Console script."""
    console.run(app)
