"""`agvas-runtime token`: printed once, kept as a hash, and a file that its server can still read."""

import os
import re
import stat
import subprocess
import sys

import pytest
import yaml

from agvas_runtime.cli_token import token as token_command
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server import access_file
from agvas_runtime.server.access import Principals
from tests.runtime.test_access import entry, sha256, written


def test_the_command_prints_a_token_once_and_keeps_its_hash(tmp_path, capsys):
    path = tmp_path / "access.yaml"
    for name, rights in (("camera-1", "inspect"), ("operator", "inspect,admin")):
        token_command(name, rights, path)
        out, err = capsys.readouterr()
        made = out.strip()
        assert out == made + "\n"
        assert len(made) >= 43  # 256 bits in base64
        assert made not in err
        assert made not in path.read_text()
        assert Principals.read(path).find(made).name == name
        assert Principals.read(path).find(made).rights == set(rights.split(","))
    assert Principals.read(path).names == ["camera-1", "operator"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["access.yaml"]


def test_the_command_without_a_file_shows_the_entry_on_stderr(capsys):
    token_command("1.5", "admin", None)  # a name that YAML would take for a number
    out, err = capsys.readouterr()
    entries = yaml.safe_load(err.partition("\n")[2])
    assert entries == [{"name": "1.5", "rights": ["admin"], "token_sha256": sha256(out.strip())}]


@pytest.mark.parametrize("name", ["1.5", "1e3", "12", "no", "null", "True"])
def test_a_name_may_look_like_something_else_to_yaml(tmp_path, name):
    token_command(name, "inspect", tmp_path / "access.yaml")
    assert Principals.read(tmp_path / "access.yaml").names == [name]


def test_the_command_keeps_what_is_in_the_file_comments_included(tmp_path):
    path = written(tmp_path / "access.yaml", "# ours\n" + entry("camera").rstrip(), 0o644)
    before = path.read_text()
    token_command("second", "inspect", path)
    assert path.read_text().startswith(before + "\n- name: second\n")


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o640), (0o400, 0o400)])
def test_who_may_read_the_file_still_may_but_for_all_others(tmp_path, before, after):
    path = written(tmp_path / "access.yaml", entry(), before)
    token_command("second", "inspect", path)
    assert stat.S_IMODE(path.stat().st_mode) == after


def test_a_group_that_the_file_cannot_be_given_to_is_not_replaced_by_another(tmp_path, monkeypatch):
    path = written(tmp_path / "access.yaml", entry(), 0o640)

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    token_command("second", "inspect", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "rights", "text"),
    [
        ("a b", "inspect", "NAME: found 'a b', expected 1 to 64 of"),
        ("a\n", "inspect", r"NAME: found 'a\n'"),
        ("camera", "inspect,root", "--rights: found 'inspect,root', expected inspect, admin or inspect,admin"),
        ("camera", "", "--rights: found ''"),
        ("taken", "inspect", "entry 2 (taken): name: found that of entry 1"),
    ],
)
def test_the_command_refuses_what_the_server_would_and_leaves_the_file(tmp_path, capsys, name, rights, text):
    path = written(tmp_path / "access.yaml", entry("taken"))
    with pytest.raises(InputError, match=re.escape(text)):
        token_command(name, rights, path)
    assert path.read_text() == entry("taken")
    assert os.listdir(tmp_path) == ["access.yaml"]
    assert capsys.readouterr().out == ""


def test_the_command_refuses_a_list_it_cannot_add_to(tmp_path):
    path = written(tmp_path / "access.yaml", f'[{{name: a, rights: [admin], token_sha256: "{sha256("a")}"}}]\n')
    with pytest.raises(InputError, match="with the new entry at its end: line"):
        token_command("second", "inspect", path)
    assert Principals.read(path).names == ["a"]


def test_a_token_that_nobody_got_is_in_no_file(tmp_path):
    command = [sys.executable, "-m", "agvas_runtime.cli", "token", "camera", "--access", tmp_path / "access.yaml"]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=usual, check=False)
    assert (done.returncode, done.stderr) == (1, "error: stdout: No space left on device\n")
    assert os.listdir(tmp_path) == []


def test_two_commands_do_not_write_at_once(tmp_path):
    path = written(tmp_path / "access.yaml", entry("a"))
    (tmp_path / ".access.yaml.part").touch()
    with pytest.raises(InputError, match="another command is writing"):
        token_command("second", "inspect", path)
    assert Principals.read(path).names == ["a"]


def test_a_command_that_comes_while_another_reads_is_refused_and_nobody_is_lost(tmp_path, monkeypatch):
    path = written(tmp_path / "access.yaml", entry("first"))
    read, refused = access_file.read, []

    def meanwhile(found):
        monkeypatch.setattr(access_file, "read", read)
        try:
            token_command("second", "inspect", path)
        except InputError as error:
            refused.append(str(error))
        return read(found)

    monkeypatch.setattr(access_file, "read", meanwhile)
    token_command("third", "inspect", path)
    assert "another command is writing" in "".join(refused)
    assert Principals.read(path).names == ["first", "third"]
    assert os.listdir(tmp_path) == ["access.yaml"]


def test_a_command_that_begins_when_another_is_just_done_is_left_alone(tmp_path, monkeypatch):
    path, part, moved = written(tmp_path / "access.yaml", entry("first")), tmp_path / ".access.yaml.part", os.replace

    def moved_and_taken(*names):
        moved(*names)
        part.touch()  # the next command's

    monkeypatch.setattr(os, "replace", moved_and_taken)
    token_command("second", "inspect", path)
    assert part.exists()
    assert Principals.read(path).names == ["first", "second"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    path = tmp_path / "none" / "access.yaml"
    with pytest.raises(EngineError, match=f"^{path}: cannot write: No such file or directory$"):
        token_command("first", "inspect", path)
