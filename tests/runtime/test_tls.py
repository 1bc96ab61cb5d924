"""TLS of a running gRPC server: who gets a handshake, whose certificate gives which right, certificates that change."""

import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.client import Client, ConnectionLostError
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc
from agvas_runtime.server import health as health_command
from agvas_runtime.server.access import Access
from agvas_runtime.server.channel import open_channel, server_options
from agvas_runtime.server.guard import Guard, caller
from agvas_runtime.server.health_service import HealthService
from agvas_runtime.server.tls import read_ca, read_pair, server_credentials
from tests.conftest import REPOSITORY

ENDED = datetime(2020, 1, 1, tzinfo=timezone.utc)


class Admin(admin_pb2_grpc.AdminServicer):
    def GetStatistics(self, request, context):
        return admin_pb2.Statistics(reason=caller(context).name)


@contextmanager
def running(credentials, access=None):
    """A server with health and administration, behind TLS; its port."""
    with ExitStack() as stack:
        guard = Guard(access)
        stack.callback(guard.close)
        server = grpc.server(ThreadPoolExecutor(4), options=server_options(1), interceptors=[guard])
        health = HealthService([])
        health.set(True)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        admin_pb2_grpc.add_AdminServicer_to_server(Admin(), server)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        yield f"127.0.0.1:{port}"


def store(cert, folder, name):
    """A certificate with its chain, and its key, as files."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(cert.private_key_pem.bytes())
    return {"cert": chain, "key": key}


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """The server's certificate and those of two clients; `ca` is the authority of all."""
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    store(authority.issue_cert("127.0.0.1", "localhost"), folder, "server")
    store(authority.issue_cert("camera.line", common_name="camera one"), folder, "camera")
    store(trustme.CA().issue_cert("camera.line"), folder, "stranger")
    return folder


@pytest.fixture
def ca(files):
    return files / "ca.pem"


def pair(files, name):
    return {"cert": files / f"{name}.pem", "key": files / f"{name}.key"}


def check(address, **credentials):
    """Code and text of a health check."""
    with open_channel(address, **credentials) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def statistics(address, **credentials):
    """Code and text of a call that needs the right admin; the caller's name where it has it."""
    with open_channel(address, **credentials) as channel:
        try:
            return grpc.StatusCode.OK, admin_pb2_grpc.AdminStub(channel).GetStatistics(
                admin_pb2.GetStatisticsRequest(), timeout=10
            ).reason
        except grpc.RpcError as error:
            return error.code(), error.details()


def test_a_server_with_tls_answers_those_who_check_its_certificate(files, ca):
    with running(server_credentials(**pair(files, "server"))) as address:
        assert check(address, ca=ca)[0] is grpc.StatusCode.OK
        assert check(address)[0] is grpc.StatusCode.UNAVAILABLE
        with Client(address, ca=str(ca)) as client:
            client.wait_ready()


def test_a_client_refuses_a_server_whose_certificate_is_not_its_own(files, authority, ca, tmp_path):
    (tmp_path / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    elsewhere = store(authority.issue_cert("elsewhere.example"), tmp_path, "elsewhere")
    with running(server_credentials(**pair(files, "server"))) as address:
        assert check(address, ca=tmp_path / "other.pem")[0] is grpc.StatusCode.UNAVAILABLE
    with running(server_credentials(**elsewhere)) as address:
        assert check(address, ca=ca)[0] is grpc.StatusCode.UNAVAILABLE


def test_without_a_client_certificate_that_is_required_there_is_no_handshake(files, ca):
    with running(server_credentials(**pair(files, "server"), client_ca=ca)) as address:
        for credentials in ({}, {"token": "abc"}, pair(files, "stranger")):
            code, text = check(address, ca=ca, **credentials)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "authorization" not in text
        with Client(address, ca=ca, timeout_s=5) as client, pytest.raises(ConnectionLostError):
            client.model()
        assert check(address, ca=ca, **pair(files, "camera"))[0] is grpc.StatusCode.OK


def test_a_client_certificate_alone_gives_the_right_to_inspect(files, ca):
    with running(server_credentials(**pair(files, "server"), client_ca=ca)) as address:
        code, text = statistics(address, ca=ca, **pair(files, "camera"))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert text.startswith("camera one has no right 'admin'")


@pytest.mark.parametrize("name", ["camera one", "camera.line"])
def test_a_client_certificate_s_common_name_or_dns_name_is_in_the_access_file(files, ca, tmp_path, name):
    path = tmp_path / "access.yaml"
    path.write_text(f"- {{name: somebody, rights: [admin], certificate: {name}}}\n")
    path.chmod(0o600)
    with running(server_credentials(**pair(files, "server"), client_ca=ca), Access(path, poll_s=0)) as address:
        assert statistics(address, ca=ca, **pair(files, "camera")) == (grpc.StatusCode.OK, "somebody")
        path.write_text("- {name: somebody, rights: [admin], certificate: another}\n")
        code, text = statistics(address, ca=ca, **pair(files, "camera"))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "a client certificate of an unknown name" in text


def test_a_name_that_is_no_dns_name_is_not_taken_for_one(files, authority, ca, tmp_path):
    path = tmp_path / "access.yaml"
    path.write_text("- {name: somebody, rights: [inspect], certificate: joe@line.example}\n")
    path.chmod(0o600)
    mail = store(authority.issue_cert("joe@line.example"), tmp_path, "mail")
    with running(server_credentials(**pair(files, "server"), client_ca=ca), Access(path)) as address:
        assert check(address, ca=ca, **mail)[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_goes_along_under_tls(files, ca, tmp_path):
    path = tmp_path / "access.yaml"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    path.write_text(f"- {{name: operator, rights: [admin], token_sha256: {digest}}}\n")
    path.chmod(0o600)
    with running(server_credentials(**pair(files, "server")), Access(path)) as address:
        assert statistics(address, ca=ca, token="abc") == (grpc.StatusCode.OK, "operator")
        assert statistics(address, ca=ca, token="abd")[0] is grpc.StatusCode.UNAUTHENTICATED
        assert statistics(address, ca=ca)[0] is grpc.StatusCode.UNAUTHENTICATED


def replace_pair(source, files):
    """Put another certificate and key in the place of the server's, one after the other as tools do."""
    for kind in ("cert", "key"):
        os.replace(source[kind], files[kind])


def test_a_new_certificate_is_taken_at_the_next_connection_and_open_ones_live_on(authority, tmp_path):
    served = store(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    new_authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "old.pem")
    new_authority.cert_pem.write_to_path(tmp_path / "new.pem")
    with (
        running(server_credentials(**served, poll_s=0)) as address,
        open_channel(address, ca=tmp_path / "old.pem") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest())
        assert check(address, ca=tmp_path / "new.pem")[0] is grpc.StatusCode.UNAVAILABLE
        replace_pair(store(new_authority.issue_cert("127.0.0.1"), tmp_path, "next"), served)
        assert check(address, ca=tmp_path / "new.pem")[0] is grpc.StatusCode.OK
        assert check(address, ca=tmp_path / "old.pem")[0] is grpc.StatusCode.UNAVAILABLE
        stub.Check(health_pb2.HealthCheckRequest())


def test_new_authorities_of_clients_are_taken_at_the_next_connection(files, ca, tmp_path):
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(ca.read_bytes())
    with running(server_credentials(**pair(files, "server"), client_ca=client_ca, poll_s=0)) as address:
        assert check(address, ca=ca, **pair(files, "camera"))[0] is grpc.StatusCode.OK
        client_ca.write_bytes(trustme.CA().cert_pem.bytes())
        assert check(address, ca=ca, **pair(files, "camera"))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("spoil", ["mismatch", "garbage", "gone"])
def test_a_certificate_that_cannot_be_used_leaves_the_old_one_and_says_why(authority, ca, tmp_path, caplog, spoil):
    served = store(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    other = store(authority.issue_cert("127.0.0.1"), tmp_path, "other")
    with running(server_credentials(**served, poll_s=0)) as address:
        assert check(address, ca=ca)[0] is grpc.StatusCode.OK
        if spoil == "mismatch":
            os.replace(other["cert"], served["cert"])
        elif spoil == "garbage":
            served["key"].write_text("no key")
        else:
            served["key"].unlink()
        for _ in range(2):
            assert check(address, ca=ca)[0] is grpc.StatusCode.OK
    told = [record.getMessage() for record in caplog.records if record.name == "agvas.tls"]
    assert len(told) == 1
    assert "what was read before stays" in told[0]
    assert {"mismatch": "key values mismatch", "garbage": "not readable as such", "gone": "no such file"}[
        spoil
    ] in told[0]
    assert "PRIVATE" not in caplog.text


def test_files_that_cannot_be_used_are_refused_in_one_line(files, ca, tmp_path):
    cert, key = pair(files, "server").values()
    empty = tmp_path / "empty"
    empty.touch()
    for call, text in (
        (lambda: server_credentials(tmp_path / "none", key), "none: found no certificate: no such file or directory"),
        (lambda: server_credentials(cert, tmp_path / "none"), "none: found no private key: no such file or directory"),
        (lambda: server_credentials(cert, files / "camera.key"), "key values mismatch, expected a certificate chain"),
        (lambda: server_credentials(key, cert), "expected a certificate chain and its private key in PEM"),
        (lambda: server_credentials(cert, key, empty), "empty: found no certificate of an authority, expected at"),
        (lambda: server_credentials(cert, key, key), "found no certificate of an authority"),
        (lambda: server_credentials(cert, key, cert), "found no certificate of an authority"),
        (lambda: open_channel("127.0.0.1:1", ca=empty), "found no certificate of an authority"),
        (lambda: open_channel("127.0.0.1:1", ca=ca, cert=cert, key=files / "camera.key"), "key values mismatch"),
    ):
        with pytest.raises(InputError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_key_with_a_passphrase_is_refused_without_asking(files, tmp_path):
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:abc", "-in", files / "server.key", "-out", locked]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(InputError, match="without a passphrase"):
        read_pair(files / "server.pem", locked)


def test_a_key_that_everybody_may_read_is_told(files, tmp_path, caplog):
    key = tmp_path / "server.key"
    key.write_bytes((files / "server.key").read_bytes())
    key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        server_credentials(files / "server.pem", key)
    assert f"{key}: everybody on this machine may read this private key: chmod o-r" in caplog.text


def test_several_authorities_may_stand_in_a_file(files, ca, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(trustme.CA().cert_pem.bytes() + ca.read_bytes())
    assert read_ca(both) == both.read_bytes()
    with running(server_credentials(**pair(files, "server"), client_ca=both)) as address:
        assert check(address, ca=both, **pair(files, "camera"))[0] is grpc.StatusCode.OK


def test_the_health_command_shows_a_certificate(files, ca):
    camera = pair(files, "camera")
    with running(server_credentials(**pair(files, "server"), client_ca=ca)) as address:
        command = [sys.executable, "-m", health_command.__name__, address]
        flags = ["--ca", ca, "--cert", camera["cert"], "--key", camera["key"]]
        environment = {"AGVAS_CA": str(ca), "AGVAS_CERT": str(camera["cert"]), "AGVAS_KEY": str(camera["key"])}
        for arguments, variables, code in ((flags, {}, 0), ([], environment, 0), ([], {}, 1), (flags[:4], {}, 2)):
            done = subprocess.run([*command, *arguments], env=variables, capture_output=True, check=False, timeout=60)
            assert done.returncode == code


def test_the_commands_of_the_documentation_make_certificates_that_work(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    text = (REPOSITORY / "docs" / "security.md").read_text("utf-8")
    block = next(block for block in re.findall(r"(?:^    .+\n)+", text, re.MULTILINE) if "openssl req" in block)
    done = subprocess.run(
        ["bash", "-euc", block], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    ca = tmp_path / "ca.pem"
    with running(server_credentials(**pair(tmp_path, "server"), client_ca=ca)) as address:
        assert check(address, ca=ca, **pair(tmp_path, "camera-1"))[0] is grpc.StatusCode.OK
        assert check(address, ca=ca)[0] is grpc.StatusCode.UNAVAILABLE
        code, text = statistics(address, ca=ca, **pair(tmp_path, "camera-1"))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert text.startswith("camera-1 has no right")
        assert check(address, ca=ca, **pair(tmp_path, "server"))[0] is grpc.StatusCode.UNAVAILABLE  # is no client's


def test_a_call_with_tls_takes_no_way_through_a_proxy(files, ca, monkeypatch):
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        running(server_credentials(**pair(files, "server"))) as address,
    ):
        for name in ("http_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert check(address, ca=ca)[0] is grpc.StatusCode.OK


@pytest.fixture
def ended(authority, tmp_path):
    """A certificate of the server that has ended, and its key."""
    return store(authority.issue_cert("127.0.0.1", not_after=ENDED), tmp_path, "ended")


def test_a_server_s_certificate_that_has_ended_is_served_and_told(ended, ca, caplog):
    with running(server_credentials(**ended)) as address:
        assert check(address, ca=ca)[0] is grpc.StatusCode.UNAVAILABLE
    assert f"{ended['cert']}: certificate 1 of 1 ended on 2020-01-01: make a new one" in caplog.text


def test_an_authority_of_clients_that_has_ended_is_told_and_the_others_count(files, ca, tmp_path, caplog):
    old = trustme.CA().issue_cert("any", not_after=ENDED)
    both = tmp_path / "both.pem"
    both.write_bytes(ca.read_bytes() + old.cert_chain_pems[0].bytes())
    with running(server_credentials(**pair(files, "server"), client_ca=both)) as address:
        assert check(address, ca=ca, **pair(files, "camera"))[0] is grpc.StatusCode.OK
    assert f"{both}: certificate 2 of 2 ended on 2020-01-01" in caplog.text


def test_a_certificate_that_has_ended_takes_no_other_one_s_place(authority, ca, ended, tmp_path, caplog):
    served = store(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    with running(server_credentials(**served, poll_s=0)) as address:
        assert check(address, ca=ca)[0] is grpc.StatusCode.OK
        replace_pair(ended, served)
        assert check(address, ca=ca)[0] is grpc.StatusCode.OK
    (told,) = (record.getMessage() for record in caplog.records if "ended on" in record.getMessage())
    assert "what was read before stays" in told
    assert "found a certificate that ended on 2020-01-01, expected one that lasts" in told


def test_authorities_of_clients_change_also_beside_a_certificate_that_has_ended(ended, ca, tmp_path, caplog):
    client_ca = tmp_path / "clients.pem"
    client_ca.write_bytes(ca.read_bytes())
    with caplog.at_level(logging.INFO), running(server_credentials(**ended, client_ca=client_ca, poll_s=0)) as address:
        client_ca.write_bytes(trustme.CA().cert_pem.bytes())
        check(address, ca=ca)
    assert f"{client_ca} read again" in caplog.text
