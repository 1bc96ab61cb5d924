"""Who may do what: the access file, its reloading, rates, what may listen beyond loopback, tokens of clients."""

import hashlib
import logging
import os
import stat

import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.server import access_file
from agvas_runtime.server.access import Access, Bucket, Buckets, Principals
from agvas_runtime.server.channel import open_channel, read_token
from agvas_runtime.server.reread import Reread
from agvas_runtime.server.tls import check_exposure, is_loopback


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(name: str = "camera", rights: object = "[inspect]", **fields: str) -> str:
    fields = fields or {"token_sha256": f'"{sha256(name)}"'}
    return (
        "\n  ".join([f"- name: {name}", f"rights: {rights}", *(f"{key}: {text}" for key, text in fields.items())])
        + "\n"
    )


def written(path, text: str, mode: int = 0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_is_that_of_the_entry_with_its_hash(tmp_path):
    text = entry("camera") + entry("operator", "[inspect, admin]") + entry("auditor", "[admin]")
    principals = Principals.read(written(tmp_path / "access.yaml", text))
    assert principals.names == ["camera", "operator", "auditor"]
    found = principals.find("operator")
    assert (found.name, found.rights) == ("operator", {"inspect", "admin"})
    assert principals.find("auditor").rights == {"admin"}
    for wrong in ("Operator", "operator ", sha256("operator"), "", "\udcff", None):
        assert principals.find(wrong) is None


def test_every_entry_is_compared_in_constant_time_whichever_fits(monkeypatch):
    principals = Principals(access_file.parse("".join(entry(f"c{n}") for n in range(5)).encode(), "access"))
    compared = []

    def compare(first: str, second: str) -> bool:
        compared.append((len(first), len(second)))
        return first == second

    monkeypatch.setattr("agvas_runtime.server.access.hmac.compare_digest", compare)
    for shown in ("c0", "c4", "nobody", None):
        principals.find(shown)
    assert compared == [(64, 64)] * 20


def test_a_certificate_s_name_is_that_of_its_entry_and_a_token_decides_where_there_is_one(tmp_path):
    text = entry("by-name", certificate="cam-1.line") + entry("by-token")
    text += entry("by-both", "[admin]", token_sha256=f'"{sha256("both")}"', certificate="operator.line")
    principals = Principals.read(written(tmp_path / "access.yaml", text))
    assert principals.find(None, frozenset({"x", "cam-1.line"})).name == "by-name"
    assert principals.find("by-token", frozenset({"cam-1.line"})).name == "by-token"
    assert principals.find("both", frozenset({"operator.line"})).name == "by-both"
    assert principals.find("both") is None
    assert principals.find("both", frozenset({"cam-1.line"})) is None
    assert principals.find(None, frozenset({"operator.line"})) is None
    assert principals.find("wrong", frozenset({"cam-1.line"})) is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("camera: 1", "found dict, expected a list of principals, each with name and rights"),
        ("- camera", "entry 1: found no fields, expected name and rights"),
        ("- rights: [inspect]\n  certificate: a", "entry 1: name: found nothing, expected 1 to 64 of"),
        (entry("a b"), "entry 1 (a b): name: found 'a b', expected 1 to 64 of"),
        (
            entry() + "- name: x\n  certificate: a",
            "entry 2 (x): rights: found nothing, expected a list of",
        ),
        (entry(rights="[inspect, root]"), "entry 1 (camera): rights: found 'root', expected a list of inspect, admin"),
        (entry(rights="admin"), "entry 1 (camera): rights: found 'admin', expected a list of inspect, admin or both"),
        (entry(rights="[]"), "entry 1 (camera): rights: found [], expected a list of inspect, admin or both"),
        (entry(rights="[inspect]\n  rights: [admin]"), "line 3, column 3: a field stands twice"),
        (
            "- name: x\n  rights: [admin]",
            "entry 1 (x): found neither token_sha256 nor certificate, expected at",
        ),
        (entry(token_sha256="12"), "token_sha256: found a value of type int, expected the SHA-256 of the token: 64 of"),
        (entry("a") + entry("b") + entry("a", certificate="c"), "entry 3 (a): name: found that of entry 1"),
        (entry("a") + entry("b", token_sha256=f'"{sha256("a")}"'), "entry 2 (b): token_sha256: found that of entry 1"),
        (entry("a", certificate="c") + entry("b", certificate="c"), "entry 2 (b): certificate: found that of entry 1"),
        ("- name: [", "line 1, column 10: expected the node content"),
        ("- name: !!python/object/apply:os.system [ls]", "line 1, column 9: found an anchor, an alias or a tag"),
        ("- name: \x00", "no YAML"),
        ("- name: \udcff", "byte 9 is no UTF-8 text"),
    ],
)
def test_a_wrong_access_file_is_refused_in_one_line_with_entry_and_field(text, error):
    with pytest.raises(InputError) as caught:
        access_file.parse(text.encode(errors="surrogateescape"), "access.yaml")
    assert str(caught.value).startswith("access.yaml: ")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        "token_sha256: {}",
        "token: {}",
        "certificate: [{}]",
        "token_sha256: {}\n  : ]",
        "token_sha256: !{}",
        "token_sha256: *{}",
        "{0}: 1\n  {0}: 2",
    ],
)
def test_a_token_that_stands_in_the_file_by_mistake_is_not_shown(field):
    secret = "hunter2-hunter2-hunter2"
    with pytest.raises(InputError) as caught:
        access_file.parse(f"- name: a\n  rights: [admin]\n  {field.format(secret)}".encode(), "access.yaml")
    assert secret not in str(caught.value)


def test_an_empty_access_file_lets_nobody_in(tmp_path):
    assert Principals.read(written(tmp_path / "access.yaml", "# nobody yet\n")).names == []


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_access_file_that_others_may_write_is_refused(tmp_path, mode):
    with pytest.raises(InputError, match=f"found mode 0{mode:o}.*expected chmod go-w"):
        Access(written(tmp_path / "access.yaml", entry(), mode))


def test_an_access_file_of_another_user_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "access.yaml", entry())
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
        assert Access(path).current().names == ["camera"]  # root adds entries to the file of the server's user
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert Access(path).current().names == ["camera"]
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    expected = f"found a file of user {owner}, who may give himself rights, expected one of root or of user {owner + 1}"
    with pytest.raises(InputError, match=expected):
        Access(path)


@pytest.mark.parametrize("mode", [0o770, 0o757])
def test_an_access_file_in_whose_place_others_may_put_another_is_refused(tmp_path, mode):
    folder, link = tmp_path / "config", tmp_path / "access.yaml"
    folder.mkdir()
    path = written(folder / "access.yaml", entry())
    link.symlink_to(path)
    folder.chmod(mode)
    for named in (path, link):
        with pytest.raises(InputError, match=f"found it in .*config, mode 0{mode:o}, .*expected chmod go-w .*config$"):
            Access(named)
    folder.chmod(mode | stat.S_ISVTX)
    assert Access(path).current().names == ["camera"]


def test_an_access_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.yaml: found no access file: no such file or directory"):
        Access(tmp_path / "none.yaml")


def test_a_changed_access_file_counts_from_the_next_call_on(tmp_path):
    access = Access(written(tmp_path / "access.yaml", entry("old")), poll_s=0)
    first = access.current()
    assert access.current() is first
    written(tmp_path / "access.yaml", entry("old") + entry("new"))
    assert access.current().names == ["old", "new"]


def test_the_file_is_looked_at_once_in_a_while_only(tmp_path):
    access = Access(written(tmp_path / "access.yaml", entry("old")), poll_s=3600)
    written(tmp_path / "access.yaml", entry("new"))
    assert access.current().names == ["old"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text("- nonsense"), "entry 1: found no fields"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.chmod(0o666), "expected chmod go-w"),
    ],
)
def test_a_broken_access_file_leaves_the_old_rights_and_says_why_once(tmp_path, caplog, spoil, reason):
    path = written(tmp_path / "access.yaml", entry("camera"))
    with caplog.at_level(logging.INFO, "agvas"):
        access = Access(path, poll_s=0)
        spoil(path)
        assert [access.current().names for _ in range(3)] == [["camera"]] * 3
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert reason in caplog.text
        written(path, entry("repaired"))
        assert access.current().names == ["repaired"]


def test_a_file_that_is_written_while_it_is_read_is_read_again(tmp_path):
    path, later = written(tmp_path / "file", "1"), iter(["22", "333"])

    def read() -> str:
        found = path.read_text()
        if found == "22":
            path.write_text(next(later))
        return found

    file = Reread([path], read, logging.getLogger("agvas"), poll_s=0)
    path.write_text(next(later))
    assert [file.current(), file.current()] == ["1", "333"]


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate():
    now = [0.0]
    bucket = Bucket(5, clock=lambda: now[0])
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    assert bucket.wait_s() == pytest.approx(0.2)
    now[0] += 0.2
    assert [bucket.take(), bucket.take()] == [True, False]
    now[0] += 3600
    assert bucket.wait_s() == 0
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]


def test_what_is_given_back_can_be_taken_again_and_no_more():
    bucket = Bucket(1, clock=lambda: 0.0)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    bucket.give_back()
    assert [bucket.take(), bucket.take()] == [True, False]
    for _ in range(9):
        bucket.give_back()
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_a_rate_below_one_a_second_still_gives_one():
    now = [0.0]
    bucket = Bucket(0.1, clock=lambda: now[0])
    assert [bucket.take(), bucket.take()] == [True, False]
    now[0] += 10.001
    assert bucket.take()


def test_every_key_has_a_bucket_of_its_own_and_the_oldest_is_forgotten():
    buckets = Buckets(0.001)
    assert [buckets.of("a").take() for _ in range(2)] == [True, False]
    for number in range(Buckets.MOST - 1):
        assert buckets.of(number).take()
    assert not buckets.of("a").take()
    for number in range(Buckets.MOST - 1, 2 * Buckets.MOST):
        assert buckets.of(number).take()
    assert len(buckets) == Buckets.MOST
    assert buckets.of("a").take()


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host, local):
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ["encryption (tls_cert and tls_key)", "credentials (access, for tokens and rights, or client_ca"]),
        ({"access"}, ["encryption (tls_cert and tls_key)"]),
        ({"cert", "key"}, ["credentials (access, for tokens and rights, or client_ca"]),
        ({"cert", "key", "access"}, []),
        ({"cert", "key", "client_ca"}, []),
    ],
)
def test_beyond_loopback_it_takes_tls_and_credentials(tmp_path, given, missing):
    settings = dict.fromkeys(given, tmp_path)
    check_exposure("127.0.0.1", **settings)
    check_exposure("0.0.0.0", **settings, insecure=True)
    if not missing:
        check_exposure("0.0.0.0", **settings)
        return
    with pytest.raises(InputError) as caught:
        check_exposure("0.0.0.0", **settings)
    assert all(text in str(caught.value) for text in [*missing, "host: found 0.0.0.0", "--insecure"])
    assert str(caught.value).count("without") == len(missing)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"cert"}, "tls_cert: found no tls_key beside it"),
        ({"key"}, "tls_key: found no tls_cert beside it"),
        ({"client_ca"}, "client_ca: found no tls_cert and tls_key beside it"),
    ],
)
def test_half_of_the_settings_is_refused_even_on_loopback(tmp_path, given, text):
    with pytest.raises(InputError, match=text):
        check_exposure("127.0.0.1", **dict.fromkeys(given, tmp_path), insecure=True)


def test_a_token_without_tls_is_sent_to_this_machine_only():
    for address in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/tmp/socket"):
        open_channel(address, token="abc").close()
    for address in ("10.0.0.1:1", "server:1", "localhost.example:1", "[2001:db8::1]:1"):
        with pytest.raises(InputError, match="token: found no ca, expected one"):
            open_channel(address, token="abc")


@pytest.mark.parametrize(
    "address", ["", "foo", ":1", "a:", "a:0", "a:65536", "http://a:1", "dns:///a:1", "[::1]", "a b:1"]
)
def test_what_is_no_address_is_refused_before_anybody_is_called(address):
    with pytest.raises(InputError, match=r"address: found .*, expected HOST:PORT"):
        open_channel(address)


@pytest.mark.parametrize("wrong", ["", "a b", "a\nb", "\u00e4", "a:b"])
def test_what_is_no_token_is_refused_and_not_shown(wrong):
    with pytest.raises(InputError, match=r"token: found \d characters that are no token"):
        open_channel("127.0.0.1:1", token=wrong)


def test_credentials_that_would_have_no_effect_are_refused(tmp_path):
    with pytest.raises(InputError, match="key: found none, expected both cert and key"):
        open_channel("127.0.0.1:1", cert=tmp_path)
    with pytest.raises(InputError, match="ca: found none"):
        open_channel("127.0.0.1:1", cert=tmp_path, key=tmp_path)


def test_the_token_of_a_file_is_read_without_what_surrounds_it(tmp_path):
    assert read_token(written(tmp_path / "token", " abc\n")) == "abc"
    with pytest.raises(InputError, match="found no token: no such file"):
        read_token(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="found something else, expected a token"):
        read_token(tmp_path / "binary")


def test_entries_whose_certificate_nobody_is_asked_for_are_told_at_every_reading(tmp_path, caplog):
    path = written(tmp_path / "access.yaml", entry("camera") + entry("operator", certificate="operator.line"))
    Access(path)
    assert caplog.text == ""
    access = Access(path, poll_s=0, certificates=False)
    assert f"{path}: operator: found certificate, which no client is asked for without client_ca" in caplog.text
    caplog.clear()
    written(path, entry("camera") + entry("auditor", certificate="auditor.line"))
    assert access.current().names == ["camera", "auditor"]
    assert f"{path}: auditor: found certificate" in caplog.text
