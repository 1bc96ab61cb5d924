"""The clients in `examples/` through one shift of a line: parts, images that are none, a server that hangs and dies.

All go through it side by side, so that the server hangs once for all of them.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import ServerProcess, server_process
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from tests.conftest import DEMO_FRAMES, REPOSITORY
from tests.runtime.live_server import WAIT_S, until

EXAMPLES = REPOSITORY / "examples"
DEADLINE_MS = 3000
"""The gate's: it is waited out where the server hangs and where it is gone."""
DEFECT, NORMAL = DEMO_FRAMES / "02_cast_colour-fault.jpg", DEMO_FRAMES / "01_part_normal.jpg"
DEBIAN = {
    "g++": "g++",
    "make": "make",
    "pkg-config": "pkg-config",
    "protoc": "protobuf-compiler",
    "grpc_cpp_plugin": "protobuf-compiler-grpc",
}


def python_example(name):
    def prepare(folder):
        return [sys.executable, str(EXAMPLES / "python" / name)]

    return prepare


def cpp_example(folder):
    missing = [package for tool, package in DEBIAN.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs Debian's {', '.join(missing)}")
    for library, package in (("grpc++", "libgrpc++-dev"), ("protobuf", "libprotobuf-dev")):
        if subprocess.run(["pkg-config", "--exists", library], check=False).returncode:
            pytest.skip(f"needs Debian's {package}")
    options = [f"OUT={folder}", f"PROTOS={REPOSITORY / 'protos'}", "CXXFLAGS=-O0 -Wall -Werror"]
    made = subprocess.run(
        ["make", "-j2", "-C", str(EXAMPLES / "cpp"), *options], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return [str(folder / "client")]


def node_example(folder):
    for tool, package in (("node", "nodejs"), ("npm", "npm")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian's {package})")
    for file in ("package.json", "package-lock.json"):
        shutil.copy(EXAMPLES / "node" / file, folder)
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ETIMEDOUT")):
        pytest.skip("npm reaches no registry for @grpc/grpc-js")
    assert done.returncode == 0, done.stderr
    return ["env", f"NODE_PATH={folder / 'node_modules'}", "node", str(EXAMPLES / "node" / "client.js")]


PREPARE = {
    "sync": python_example("sync_client.py"),
    "asyncio": python_example("asyncio_client.py"),
    "cpp": cpp_example,
    "node": node_example,
}


class Example:
    """A client that is given one part after another."""

    def __init__(self, command: list[str], port: int, *images: Path) -> None:
        settings = {"AGVAS_SERVER": f"127.0.0.1:{port}", "AGVAS_DEADLINE_MS": str(DEADLINE_MS)}
        self.process = subprocess.Popen(
            [*command, *map(str, images)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings},
        )
        self._too_long = threading.Timer(2 * WAIT_S, self.process.kill)
        self._too_long.start()
        self.lines: list[str] = []

    def ask(self, image: Path) -> None:
        self.process.stdin.write(f"{image}\n")
        self.process.stdin.flush()

    def hear(self) -> None:
        self.lines.append(self.process.stdout.readline().rstrip("\n"))

    def finish(self) -> None:
        """No part follows."""
        rest, errors = self.process.communicate()
        self._too_long.cancel()
        self.lines += rest.splitlines()
        assert self.process.returncode == 0, errors
        assert not errors, errors


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, list[str] | str]:
    """How each example is started, or why it cannot be."""
    found: dict[str, list[str] | str] = {}
    with ThreadPoolExecutor(len(PREPARE)) as side_by_side:  # one downloads while the other compiles
        folders = {name: tmp_path_factory.mktemp(name) for name in PREPARE}
        prepared = {name: side_by_side.submit(prepare, folders[name]) for name, prepare in PREPARE.items()}
    for name, done in prepared.items():
        try:
            found[name] = done.result()
        except pytest.skip.Exception as reason:
            found[name] = str(reason)
    return found


@pytest.fixture(scope="module")
def shift(commands, tmp_path_factory) -> dict[str, list[str]]:
    """What each example says in the course of it; under `expected` what the Python client is told."""
    broken = tmp_path_factory.mktemp("broken") / "broken.png"
    broken.write_bytes(b"no image")
    with ExitStack() as running:
        server = running.enter_context(server_process())
        examples = {
            name: Example(command, server.port) for name, command in commands.items() if isinstance(command, list)
        }
        for example in examples.values():
            running.callback(example.process.wait)
            running.callback(example.process.kill)

        def part(image: Path, lines: int = 1) -> None:
            for example in examples.values():
                example.ask(image)
            for example in examples.values():
                for _ in range(lines):
                    example.hear()

        part(DEFECT, lines=2)
        part(NORMAL)
        part(broken.with_name("missing.png"))
        part(broken)
        server.process.send_signal(signal.SIGSTOP)
        try:
            part(DEFECT)
        finally:
            server.process.send_signal(signal.SIGCONT)
        part(DEFECT)
        expected = expectation(server, broken)
        server.process.kill()
        until(lambda: server.process.poll() is not None)
        part(DEFECT)
        running.enter_context(server_process(["--port", str(server.port)]))
        part(DEFECT)
        for example in examples.values():
            example.finish()
        return {"expected": expected, **{name: example.lines for name, example in examples.items()}}


def expectation(server: ServerProcess, broken: Path) -> list[str]:
    with Client(f"127.0.0.1:{server.port}") as client:
        replies = [client.segment(image) for image in (DEFECT, NORMAL)]
        defect, normal = (f"{each.verdict.value}, gate {each.gate}, {each.defect_area_px} px" for each in replies)
        with pytest.raises(InputError) as refused:
            client.segment(broken.read_bytes())
    assert [each.verdict.value for each in replies] == ["REJECT", "PASS"]
    return [
        f"segment {DEFECT.name}: {defect}",
        f"part-1 trigger-1: OK {defect}",
        f"part-2 trigger-2: OK {normal}",
        "part-3 trigger-3: LOST NO_ANSWER, gate reject, 0 px",
        f"part-4 trigger-4: INVALID NO_ANSWER, gate reject, 0 px: {refused.value}",
        "part-5 trigger-5: LOST NO_ANSWER, gate reject, 0 px: no answer by the deadline",
        f"part-6 trigger-6: OK {defect}",
        "part-7 trigger-7: LOST NO_ANSWER, gate reject, 0 px",
        f"part-8 trigger-8: OK {defect}",
    ]


@pytest.mark.parametrize("name", PREPARE)
def test_an_example_decides_about_every_part(shift, commands, name):
    if name not in shift:
        pytest.skip(commands[name])
    lines = list(shift[name])
    for place in (3, 7):  # in the words of its files and its gRPC
        lines[place], px, reason = lines[place].partition(" px")
        lines[place] += px
        assert reason.startswith(": ")
    assert lines == shift["expected"]


@pytest.mark.parametrize("name", PREPARE)
def test_an_example_takes_images_from_its_command_line(server, commands, name):
    if isinstance(commands[name], str):
        pytest.skip(commands[name])
    example = Example(commands[name], server.port, DEFECT, NORMAL)
    example.finish()
    assert [line.partition(" ")[0] for line in example.lines] == ["segment", "part-1", "part-2"]
    assert [line.split()[3] for line in example.lines[1:]] == ["REJECT,", "PASS,"]


@pytest.mark.parametrize("name", PREPARE)
def test_an_example_that_begins_without_an_image_decides_all_the_same(server, commands, name, tmp_path):
    if isinstance(commands[name], str):
        pytest.skip(commands[name])
    example = Example(commands[name], server.port, tmp_path / "missing.png", NORMAL)
    example.finish()
    assert example.lines[0].startswith("segment missing.png: NO_ANSWER, gate reject, 0 px: ")
    assert [line.split()[2:4] for line in example.lines[1:]] == [["LOST", "NO_ANSWER,"], ["OK", "PASS,"]]


@pytest.mark.parametrize("name", PREPARE)
def test_a_blank_line_is_a_part_without_an_answer_and_ends_nothing(server, commands, name):
    if isinstance(commands[name], str):
        pytest.skip(commands[name])
    example = Example(commands[name], server.port)
    example.ask("")
    example.ask(NORMAL)
    example.finish()
    assert [line.split()[2:4] for line in example.lines[1:]] == [["LOST", "NO_ANSWER,"], ["OK", "PASS,"]]


KNOWN = {"status": pb.FRAME_STATUS_OK, "verdict": pb.VERDICT_PASS, "gate": pb.GATE_PASS}
NEWER = [{**KNOWN, field: number} for field in KNOWN for number in (9, 0) if (field, number) != ("status", 0)]
"""What a newer server may send. A message that says nothing of its status has a result."""


class Newer(pb_grpc.InspectionServicer):
    """Answers with values that no client knows, and then with known ones."""

    def Segment(self, request, context):
        return pb.SegmentResponse(**NEWER[0])

    def Inspect(self, messages, context):
        next(messages)
        for message, values in zip(messages, [*NEWER, KNOWN], strict=True):
            yield answer_to(message, **values)


class Ending(pb_grpc.InspectionServicer):
    """Ends the stream behind every answer, with a heartbeat in between."""

    def Segment(self, request, context):
        return pb.SegmentResponse(**KNOWN)

    def Inspect(self, messages, context):
        next(messages)
        yield answer_to(next(messages), **KNOWN)
        yield pb.InspectResponse(heartbeat=pb.Heartbeat(serving=True))


def answer_to(message: pb.InspectRequest, **values: int) -> pb.InspectResponse:
    return pb.InspectResponse(answer=pb.SegmentResponse(identity=message.frame.frame.identity, **values))


@contextmanager
def serving(servicer: pb_grpc.InspectionServicer) -> Iterator[int]:
    running = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_InspectionServicer_to_server(servicer, running)
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield port
    finally:
        running.stop(0).wait()


@pytest.mark.parametrize("name", PREPARE)
def test_an_example_takes_what_only_a_newer_server_knows_for_no_answer(commands, name):
    if isinstance(commands[name], str):
        pytest.skip(commands[name])
    with serving(Newer()) as port:
        example = Example(commands[name], port, *[NORMAL] * (len(NEWER) + 1))
        example.finish()
    segmented, *newer, known = example.lines
    assert segmented.startswith(f"segment {NORMAL.name}: NO_ANSWER, gate reject, 0 px: found status 9, ")
    for line, values in zip(newer, NEWER, strict=True):
        status = "OK" if values["status"] == pb.FRAME_STATUS_OK else "UNKNOWN"
        assert line.partition(": ")[2].startswith(f"{status} NO_ANSWER, gate reject, 0 px: found status ")
    assert known.endswith(": OK PASS, gate pass, 0 px")


@pytest.mark.parametrize("name", PREPARE)
def test_a_stream_that_ended_between_two_parts_costs_none(commands, name):
    """Two parts in a row have answers once the end of the first one's stream has had the time to reach the example: a
    part that overtakes it is lost, and the next ones come after a longer pause."""
    if isinstance(commands[name], str):
        pytest.skip(commands[name])
    with serving(Ending()) as port:
        example = Example(commands[name], port)
        example.ask(NORMAL)
        for _ in range(2):
            example.hear()
        for pause_ms in (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
            threading.Event().wait(pause_ms / 1000)
            example.ask(NORMAL)
            example.hear()
            if in_a_row := [": OK PASS" in line for line in example.lines[-2:]] == [True, True]:
                break
        example.finish()
    assert in_a_row, example.lines


def test_the_asyncio_client_s_own_command_makes_the_stubs_that_it_takes(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed; `make test` installs it")
    client = EXAMPLES / "python" / "asyncio_client.py"
    (tmp_path / "examples" / "python").mkdir(parents=True)
    shutil.copy(client, tmp_path / "examples" / "python")
    (tmp_path / "protos").symlink_to(REPOSITORY / "protos")
    command = re.search(r"^    python (-m grpc_tools.*) \\\n(.*)$", client.read_text("utf-8"), re.MULTILINE)
    subprocess.run([sys.executable, *" ".join(command.groups()).split()], cwd=tmp_path, check=True)
    script = "import asyncio_client as client; print(client.pb.__file__, client.pb_grpc.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "examples" / "python")}
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    made = tmp_path / "examples" / "python" / "agvas" / "v1"
    assert told.stdout.split() == [str(made / "inspection_pb2.py"), str(made / "inspection_pb2_grpc.py")]
