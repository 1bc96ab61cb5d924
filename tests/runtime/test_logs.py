"""The log: lines that cannot be forged, and an output that cannot stop the server."""

import errno
import io
import json
import logging
import os
import select
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from agvas_runtime.server import logs
from agvas_runtime.server.logs import CallLog, JsonLines, LogWriter, TextLines, set_up
from tests.runtime.live_server import until


@pytest.fixture
def logger():
    """A logger of its own that passes nothing on; its handlers are closed at the end."""
    made = logging.getLogger("agvas.test")
    made.propagate, made.level = False, logging.DEBUG
    yield made
    for handler in made.handlers[:]:
        made.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch):
    """Puts back what `set_up` changes for the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("agvas")
    before = root.handlers, root.level, ours.level
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    yield
    logging.captureWarnings(False)
    root.handlers, root.level, ours.level = before


def written(logger: logging.Logger, formatter: logging.Formatter, log) -> list[str]:
    """The lines that come of what `log` logs."""
    out = io.StringIO()
    with closing(LogWriter(out)) as writer:
        writer.setFormatter(formatter)
        logger.addHandler(writer)
        log()
        logger.removeHandler(writer)
    return out.getvalue().splitlines()


def test_a_text_line_has_time_level_logger_message_and_values(logger):
    (line,) = written(logger, TextLines(), lambda: logger.info("frame %d", 7, extra={"camera": "cam 1", "ms": 2.5}))
    assert line[10] == "T"
    assert line[23:] == 'Z INFO agvas.test: frame 7 camera="cam 1" ms=2.5'


def test_a_json_line_is_an_object_with_what_was_given(logger):
    def log():
        logger.warning(
            "slow", extra={"request_id": "a1", "peer": "ipv4:1", "ms": 2.5, "nothing": None, "nan": float("nan")}
        )

    (line,) = written(logger, JsonLines(), log)
    found = json.loads(line)
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "WARNING",
        "logger": "agvas.test",
        "message": "slow",
        "request_id": "a1",
        "peer": "ipv4:1",
        "ms": 2.5,
        "nothing": None,
        "nan": None,
    }


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_what_a_caller_sends_is_one_harmless_line_and_short(logger, formatter):
    bad = "a\nlevel=INFO\r\x1b[2J\x00\x9b\u2028\u202e" + "x" * 10_000

    (line,) = written(logger, formatter, lambda: logger.info("%s", bad, extra={"camera": bad, "level": "forged"}))
    assert line.isprintable()
    assert len(line) < 3000
    if isinstance(formatter, JsonLines):
        assert json.loads(line)["level"] == "INFO"
        assert json.loads(line)["camera"].startswith("a level=INFO [2J xxx")


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_an_exception_is_in_the_line(logger, formatter):
    def log():
        try:
            raise ValueError("no\nnumber")
        except ValueError:
            logger.exception("it failed")

    (line,) = written(logger, formatter, log)
    assert "ValueError: no" in line
    assert "test_logs.py" in line


def test_a_value_with_quotes_or_an_equals_sign_cannot_look_like_two(logger):
    (line,) = written(logger, TextLines(), lambda: logger.info("m", extra={"a": 'x" b=1', "c": "y=2", "d": ""}))
    assert line.endswith(r'a="x\" b=1" c="y=2" d=""')


def test_a_record_that_cannot_be_formatted_is_left_out_and_nothing_is_raised(logger, monkeypatch, capsys):
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def log():
        logger.info("%d", "x")
        logger.info("next")

    assert [line[-4:] for line in written(logger, TextLines(), log)] == ["next"]
    assert capsys.readouterr().err == ""


def test_an_output_nobody_reads_stops_nobody_and_the_loss_is_told(logger, monkeypatch):
    monkeypatch.setattr(logs, "MOST_LINES", 10)
    monkeypatch.setattr(logs, "FLUSH_S", 0.01)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        writer = LogWriter(stream)
        writer.setFormatter(TextLines())
        logger.addHandler(writer)
        for number in range(3000):  # far more than a pipe and the queue hold
            logger.info("%d %s", number, "x" * 200)
        writer.close()  # returns although the thread hangs in a write
    with os.fdopen(reading) as lines:
        logger.info("behind")
        text = "".join(iter(lines.readline, ""))
    assert "agvas.test: 0 xxx" in text
    assert "lines were left out: the output did not take them" in text


def test_a_closed_pipe_a_full_disk_and_no_output_at_all_raise_nothing(logger):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed, open("/dev/full", "w") as full:
        for stream in (closed, full, None):
            with closing(LogWriter(stream)) as writer:
                writer.setFormatter(TextLines())
                logger.addHandler(writer)
                logger.info("one")
                logger.info("two")
                logger.removeHandler(writer)
            assert not writer._thread.is_alive()
            assert writer._lines.empty()  # it did not end before


class Output(io.FileIO):
    """A file that can be full, and counts how often it was tried in vain."""

    full, in_vain = False, 0

    def write(self, data):
        if self.full:
            self.in_vain += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        count = super().write(data)
        self.in_vain += count is None
        return count


class Cut(Output):
    """A disk that is full in the midst of a line."""

    room = 10**6

    def write(self, data):
        self.full = not self.room
        count = super().write(data[: self.room])
        self.room -= count
        return count


def logged_around(logger, writer, out, make_room):
    """Two lines that the disk does not take, and one when there is room again; the file's lines."""
    with closing(writer):
        writer._out = out
        logger.addHandler(writer)
        logger.info("one")
        logger.info("two")
        until(lambda: out.in_vain == 3)  # behind the first one it is tried to tell of it
        make_room()
        logger.info("three")
    with open(out.name) as log:
        return log.read().splitlines()


def test_what_a_full_disk_did_not_take_is_told_once_there_is_room(logger, tmp_path):
    writer, out = LogWriter(None), Output(tmp_path / "log", "w")
    writer.setFormatter(TextLines())
    out.full = True
    lost, three = logged_around(logger, writer, out, lambda: setattr(out, "full", False))
    assert lost.endswith("WARNING agvas: 2 lines were left out: the output did not take them")
    assert three.endswith("agvas.test: three")


def test_a_line_that_a_full_disk_has_cut_is_ended_before_the_next_one(logger, tmp_path):
    writer, out = LogWriter(None), Cut(tmp_path / "log", "w")
    writer.setFormatter(JsonLines())
    out.room = 20
    cut, *whole = logged_around(logger, writer, out, lambda: setattr(out, "room", 10**6))
    assert len(cut) == 20
    told = "2 lines were left out: the output did not take them"
    assert [json.loads(line)["message"] for line in whole] == [told, "three"]


def test_an_output_that_does_not_wait_for_its_reader_is_waited_for(logger, monkeypatch):
    waited = []

    def poll():
        waited.append(made := select.poll())
        return made

    monkeypatch.setattr(logs, "select", SimpleNamespace(poll=poll, POLLOUT=select.POLLOUT))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = LogWriter(None)
    writer._out = out = Output(writing, "w")
    writer.setFormatter(TextLines())
    logger.addHandler(writer)
    for number in range(2000):  # more than a pipe holds, less than the queue
        logger.info("%d %s", number, "x" * 200)
    until(lambda: waited)
    with os.fdopen(reading) as lines:
        found = [lines.readline() for _ in range(2000)]
        writer.close()
    assert [line.split()[3] for line in found] == [str(number) for number in range(2000)]
    assert len(waited) == out.in_vain


def test_a_process_whose_stderr_goes_away_ends_as_it_should():
    code = """
import logging, sys
from agvas_runtime.server.logs import set_up
writer = set_up()
log = logging.getLogger("agvas.test")
log.info("first")
sys.stdin.readline()
for number in range(10_000):
    log.info("%d", number)
writer.close()
print("done")
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stderr.readline().endswith("agvas.test: first\n")
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "done\n"
        assert process.wait(timeout=60) == 0


def test_set_up_takes_our_lines_from_the_level_on_and_of_others_only_warnings():
    out = io.StringIO()
    with closing(set_up("debug", "json", out)):
        logging.getLogger("agvas.engine").debug("ours")
        logging.getLogger("grpc").info("theirs")
        logging.getLogger("grpc").warning("their warning")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["ours", "their warning"]
    assert not logging.getLogger().handlers
    assert logging.raiseExceptions is False


def test_ends_of_calls_that_went_well_are_only_for_debugging(logger):
    calls = CallLog(logger)
    (line,) = written(logger, TextLines(), lambda: calls.ended("/a/B", "OK", request_id="r1", principal=""))
    assert line.endswith("DEBUG agvas.test: /a/B OK request_id=r1")


def test_failed_calls_are_told_so_many_a_second_and_the_rest_counted(logger):
    now = 0.0
    calls = CallLog(logger, per_s=2, clock=lambda: now)

    def log():
        nonlocal now
        for number in range(5):
            calls.ended("/a/B", "INVALID_ARGUMENT", "frame.raw: bad\n", number=number)
        now = 1.5
        calls.ended("/a/B", "UNAVAILABLE")
        calls.ended("/a/B", "UNAVAILABLE")

    lines = [line.split(": ", 1)[1] for line in written(logger, TextLines(), log)]
    assert lines == [
        "/a/B INVALID_ARGUMENT: frame.raw: bad number=0",
        "/a/B INVALID_ARGUMENT: frame.raw: bad number=1",
        "/a/B UNAVAILABLE suppressed=3",
        "/a/B UNAVAILABLE",
    ]
