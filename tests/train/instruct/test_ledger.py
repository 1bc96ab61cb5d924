"""The output files outlive kills, full disks and second processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.instruct.ledger import ASIDE, RECORDS, SETS, Ledger

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from agvas_runtime.errors import EngineError
from agvas_train.data.instruct.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with Ledger(Path(sys.argv[1])) as ledger:
    ledger.record({"dataset": "set", "image": "a"})
    try:
        ledger.record({"dataset": "set", "image": "b" * 100})
    except EngineError as error:
        print(error)
    ledger.record({"dataset": "set", "image": "c"})
"""


def line(image: str) -> dict[str, str]:
    return {"dataset": "set", "image": image}


def images(file: Path) -> list[str]:
    return [json.loads(text)["image"] for text in file.read_text().splitlines()]


def test_what_was_written_is_known_the_next_time(tmp_path: Path):
    with Ledger(tmp_path / "out") as ledger:
        ledger.record(line("a"))
        ledger.set_aside(line("b"))
    with Ledger(tmp_path / "out") as ledger:
        assert ledger.done == {("set", "a")}
        assert ledger.put_aside == {("set", "b")}
        ledger.record(line("c"))
    assert images(tmp_path / "out" / RECORDS) == ["a", "c"]
    assert images(tmp_path / "out" / ASIDE) == ["b"]


def test_a_name_belongs_to_one_folder(tmp_path: Path):
    with Ledger(tmp_path / "out") as ledger:
        ledger.claim("set", tmp_path / "a" / "set")
        ledger.claim("other", tmp_path / "b" / "other")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with Ledger(tmp_path / "out") as ledger:
        ledger.claim("set", tmp_path / "link" / "set")
        with pytest.raises(InputError, match=r"sets.json: data set 'set': found .*/b/set, expected .*/a/set; give"):
            ledger.claim("set", tmp_path / "b" / "set")


@pytest.mark.parametrize("wrong", [b"{", b"[]", b'{"set": 7}', b"[" * 100_000, b"\xff"])
def test_a_list_of_sets_that_is_none_is_refused_by_name(tmp_path: Path, wrong: bytes):
    (tmp_path / SETS).write_bytes(wrong)
    with pytest.raises(InputError, match=r"sets.json: ") as fault:
        Ledger(tmp_path)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("half", [b"{", b'{"dataset": "set", "image": "b"', b"\0" * 200_000])
def test_a_line_without_its_end_is_dropped(tmp_path: Path, half: bytes, capsys: pytest.CaptureFixture[str]):
    with Ledger(tmp_path) as ledger:
        ledger.record(line("a"))
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(half)
    with Ledger(tmp_path) as ledger:
        assert ledger.done == {("set", "a")}
        ledger.record(line("b"))
    assert images(tmp_path / RECORDS) == ["a", "b"]
    assert f"dropped {len(half)} bytes" in capsys.readouterr().err


def test_a_whole_record_that_lacks_its_newline_is_kept(tmp_path: Path):
    (tmp_path / RECORDS).write_text(json.dumps(line("a")) + "\n" + json.dumps(line("b")))
    with Ledger(tmp_path) as ledger:
        assert ledger.done == {("set", "a"), ("set", "b")}
        ledger.record(line("c"))
    assert images(tmp_path / RECORDS) == ["a", "b", "c"]


def test_a_file_of_one_unfinished_line_is_emptied(tmp_path: Path):
    (tmp_path / RECORDS).write_bytes(b'{"data')
    with Ledger(tmp_path) as ledger:
        assert ledger.done == set()
    assert (tmp_path / RECORDS).read_bytes() == b""


@pytest.mark.parametrize("wrong", [b"a record\n", b"[1]\n", b'{"image": "a"}\n', b'{"dataset": "set", "image": 1}\n'])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, wrong: bytes):
    (tmp_path / RECORDS).write_bytes(wrong)
    with pytest.raises(InputError, match="line 1 is no record"):
        Ledger(tmp_path)
    assert (tmp_path / RECORDS).read_bytes() == wrong


def test_a_folder_has_one_writer(tmp_path: Path):
    with Ledger(tmp_path), pytest.raises(InputError, match="another process"):
        Ledger(tmp_path)
    with Ledger(tmp_path):
        pass


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path / RECORDS}: cannot write: ")
    assert images(tmp_path / RECORDS) == ["a", "c"]
