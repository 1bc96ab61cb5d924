"""Files are written whole, all of them or none, and never in the place of something that is no file."""

import os
import socket

import pytest

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import check_place, hidden_folder, write_all, write_whole


@pytest.fixture(params=["pipe", "socket", "folder", "link to a pipe"])
def no_file(request, tmp_path):
    """A path with this at it."""
    path = tmp_path / "it"
    if request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            yield path
        return
    if request.param == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
        if request.param == "pipe":
            path.unlink()
            (tmp_path / "pipe").rename(path)
    yield path


def test_what_is_no_file_is_refused_and_stays(no_file):
    before = no_file.lstat()
    with pytest.raises(InputError, match=r"it: found a .*, expected a file to write"):
        check_place(no_file)
    with pytest.raises(EngineError, match=r"it: cannot write: found a .*, expected a file to write"):
        write_whole(no_file, b"new")
    assert no_file.lstat().st_ino == before.st_ino
    assert no_file.lstat().st_mode == before.st_mode
    assert not list(no_file.parent.glob(".*"))


@pytest.mark.parametrize("there", [True, False])
def test_behind_a_link_its_file_is_written(tmp_path, there):
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    link.symlink_to("far/target")
    check_place(link)
    write_whole(link, b"new")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_link_that_leads_to_itself_is_one_line(tmp_path):
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(InputError, match="round: cannot write: Too many levels of symbolic links"):
        check_place(tmp_path / "round")
    with pytest.raises(EngineError, match="round: cannot write: Too many levels of symbolic links"):
        write_whole(tmp_path / "round", b"new")


def test_of_files_that_belong_together_all_are_written_or_none(tmp_path):
    names = [tmp_path / name for name in ("a", "b", "x" * 250)]
    for path in names[:2]:
        path.write_bytes(b"old")
    with pytest.raises(EngineError, match="cannot write: File name too long"):
        write_all({**dict.fromkeys(names[:2], b"new"), tmp_path / ("y" * 300): b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}
    write_all(dict.fromkeys(names, b"new"))
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"new"}
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_writer_left_goes_and_nothing_else(tmp_path):
    left, others = tmp_path / ".set-abcd_123.part", [".set-b-abcd_123.part", ".set-mine.part", ".set-abcd_123", "set"]
    for folder in (left, *(tmp_path / name for name in others)):
        folder.mkdir()
        (folder / "file").write_text("x")
    with hidden_folder(tmp_path / "set") as first, hidden_folder(tmp_path / "set"):
        assert not left.exists()
        assert first.is_dir()  # its writer lives
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_files_with_long_names_that_begin_alike_keep_their_own_content(tmp_path):
    names = [tmp_path / ("\u65e5" * 84 + end) for end in ("1", "2")]
    write_all({path: path.name[-1].encode() for path in names})
    assert [path.read_bytes() for path in names] == [b"1", b"2"]
    assert len(list(tmp_path.iterdir())) == 2
