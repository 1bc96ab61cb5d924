"""Every command ends with one line and the right exit code."""

import json
import os
import subprocess
import sys
import threading

import pytest

from agvas_runtime import console
from agvas_runtime.errors import BundleError, EngineError, InputError

app = console.make_app("Test.")
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@app.command()
def leave(how: str) -> None:
    """Raise."""
    errors = {
        "input": InputError("x.png:\nnot\x1b[31m an image"),
        "bundle": BundleError("too new"),
        "engine": EngineError("out of memory"),
        "interrupt": KeyboardInterrupt(),
        "disk": OSError(28, "No space left on device", "out.json"),
    }
    if how in errors:
        raise errors[how]


@app.command()
def other() -> None:
    """Nothing."""


def left(*args):
    with pytest.raises(SystemExit) as caught:
        console.run(app, list(args))
    return caught.value.code


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("input", 2, "error: x.png: not [31m an image\n"),
        ("bundle", 2, "error: too new\n"),
        ("engine", 1, "error: out of memory\n"),
        ("disk", 1, "error: out.json: No space left on device\n"),
        ("interrupt", 130, ""),
        ("well", 0, ""),
    ],
)
def test_exit_codes(capfd, how, code, line):
    assert left("leave", how) == code
    assert capfd.readouterr() == ("", line)


def test_kept_notes_are_those_of_one_thread_inside_the_block(capfd):
    with console.kept_notes() as kept:
        console.note("here")
        other = threading.Thread(target=console.note, args=("there",))
        other.start()
        other.join()
    console.note("afterwards")
    assert (kept, capfd.readouterr().err) == (["here"], "there\nafterwards\n")


def test_a_mistyped_command_gets_a_suggestion(capfd):
    assert left("leav") == 2
    assert "Did you mean 'leave'?" in capfd.readouterr().err


def test_no_command_shows_the_help(capfd):
    assert left() == 2
    out, err = capfd.readouterr()
    assert "Commands:" in out + err


def test_a_reader_that_goes_away_ends_the_command_quietly():
    script = (
        "from agvas_runtime import console\n"
        "app = console.make_app('x')\n"
        "@app.command()\n"
        "def a() -> None:\n    [print(i) for i in range(100000)]\n"
        "@app.command()\n"
        "def b() -> None: ...\n"
        "console.run(app, ['a'])\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("work", ["print('x')", "print('x', flush=True)"])
def test_a_stdout_that_takes_nothing_is_one_line_and_exit_code_1(work):
    script = "from agvas_runtime import console\napp = console.make_app('x')\n@app.command()\ndef a() -> None:\n"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", f"{script}    {work}\nconsole.run(app, [])"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device\n")


def test_progress_is_silent_without_a_terminal(capfd):
    assert list(console.progress([1, 2], "counting")) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_json_holds_null_where_a_number_is_not_finite(capfd):
    console.print_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": "ä"})
    assert json.loads(capfd.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}, "d": "ä"}


def test_json_is_json_whatever_the_encoding_of_stdout():
    script = "from agvas_runtime import console\napp = console.make_app('x')\n@app.command()\ndef a() -> None:\n"
    script += "    console.print_json('\\u00e4')\nconsole.run(app, [])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert json.loads(subprocess.check_output([sys.executable, "-c", script], env=environment)) == "ä"


def test_a_missing_extra_is_one_line_that_names_it(capsys):
    app = console.make_app("Trial.")

    @app.command()
    def work() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    with pytest.raises(SystemExit) as left:
        console.run(app, [])
    assert left.value.code == 1
    assert capsys.readouterr().err == (
        "error: torch is not installed, which this command needs: pip install 'agvas[train]'\n"
    )


def test_examples_in_help_keep_their_lines(run_module):
    shown = run_module("agvas_runtime.cli", "roofline", "--help").stdout
    assert "Examples:\n    agvas-runtime roofline\n" in shown
    assert "\\b" not in shown
