"""`agvas-runtime doctor`: each check finds what it is for, on real files, ports and certificates."""

import json
import os
import resource
import shutil
import socket
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme
from cryptography import x509

from agvas_runtime import console, doctor
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.cli_doctor import doctor as command
from agvas_runtime.control_group import Limits, container_limits
from agvas_runtime.errors import InputError
from agvas_runtime.server import checks
from agvas_runtime.server.certificates import last_moments
from agvas_runtime.server.checks import Check
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.gpu_memory import GpuMemory


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `doctor` in this process; returns (exit code, stdout, stderr)."""
    for name in ServerConfig.model_fields:
        monkeypatch.delenv(f"AGVAS_{name.upper()}", raising=False)
    app = console.make_app("A doctor.")
    app.command()(command)
    app.command("other")(lambda: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            console.run(app, ["doctor", *map(str, arguments)])
        return caught.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def certificate(tmp_path):
    """Writes a certificate and its key, ending then; returns their paths."""
    authority = trustme.CA()

    def write(end: datetime | None = None, name: str = "line") -> tuple[Path, Path]:
        made = authority.issue_cert("localhost", not_after=end)
        cert, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return cert, key

    return write


def only(look, *values: object) -> Check:
    """The one finding of a check."""
    (found,) = look(*values)
    return found


def by_name(look, config: ServerConfig) -> dict[str, Check]:
    return {check.name: check for check in look(config)}


def test_a_machine_that_can_serve_is_exit_code_0_and_a_table(run, tmp_path):
    (tmp_path / "agvas.yaml").write_text("port: 0\n")
    code, out, err = run("--config", tmp_path / "agvas.yaml")
    assert (code, err) == (0, "")
    names = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert {"python", "packages", "onnxruntime", "cpu", "memory", "bundle", "port"} <= set(names)
    assert out.splitlines()[-1].startswith("0 problems, ")


def test_a_problem_is_exit_code_1_and_json_says_what_to_do(run, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("AGVAS_PORT", str(taken.getsockname()[1]))
        code, out, _ = run("--json")
    found = json.loads(out)
    (row,) = (row for row in found["checks"] if row["state"] == "problem")
    assert (code, found["problems"], row["check"]) == (1, 1, "port")
    assert row["found"].endswith("on 127.0.0.1: address already in use")
    assert "another port" in row["advice"]


def test_a_configuration_that_cannot_be_used_is_a_problem_and_the_machine_is_looked_at_all_the_same(run, tmp_path):
    (tmp_path / "agvas.yaml").write_text("prot: 0\n")
    code, out, _ = run("--config", tmp_path / "agvas.yaml", "--json")
    rows = {row["check"]: row for row in json.loads(out)["checks"]}
    assert code == 1
    assert rows["configuration"]["found"] == "agvas.yaml: prot: no such setting; did you mean port?"
    assert rows["python"]["state"] == "ok"
    assert "port" not in rows


def test_a_check_that_fails_itself_stops_no_other(monkeypatch):
    def broken():
        raise RuntimeError("a bug")
        yield

    monkeypatch.setattr(doctor, "clock", broken)
    found = {check.name: check for check in doctor.examine(lambda: ServerConfig(port=0))}
    assert found["broken"] == Check("broken", "problem", "this check failed: RuntimeError: a bug")
    assert found["bundle"].state == "ok"


def test_ports_both_have_to_be_free():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = by_name(checks.ports, ServerConfig(port=0, metrics_port=port))
    assert [found[name].state for name in ("port", "metrics port")] == ["ok", "problem"]
    assert only(lambda: [checks._port("port", "no.such.host.invalid", 1)]).state == "problem"


def test_a_bundle_is_opened_and_verified(tmp_path):
    good = only(checks.bundle, ServerConfig())
    assert good.state == "ok"
    assert "agvas-tiny" in good.found
    altered = tmp_path / "bundle"
    shutil.copytree(default_bundle_path(), altered)
    with (altered / "templates.json").open("r+b") as file:
        file.write(b"[")
    with pytest.raises(InputError, match=r"templates.json is altered"):
        only(checks.bundle, ServerConfig(bundle=altered))
    assert only(checks.bundle, ServerConfig(engine="tensorrt")).state == "problem"


def test_the_bundle_root_has_to_be_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    found = by_name(checks.bundle, ServerConfig(bundle_root=tmp_path))
    assert found["bundle root"] == Check("bundle root", "ok", f"{tmp_path}, 1 folders")
    assert by_name(checks.bundle, ServerConfig(bundle_root=tmp_path / "no"))["bundle root"].state == "problem"


def test_recipes_are_read(tmp_path):
    (tmp_path / "bracket.yaml").write_text("threshold: 0.5\n")
    assert only(checks.recipes, ServerConfig(recipes=tmp_path)).found == f"{tmp_path}: bracket"
    (tmp_path / "bracket.yaml").write_text("threshold: 5\n")
    with pytest.raises(InputError, match=r"bracket.yaml: threshold"):
        only(checks.recipes, ServerConfig(recipes=tmp_path))


def test_certificates_that_have_ended_or_soon_do_are_told(certificate):
    now = datetime.now(timezone.utc)
    states = []
    for end in (now + timedelta(days=100), now + timedelta(days=9, hours=1), now - timedelta(days=1)):
        cert, key = certificate(end)
        found = by_name(checks.tls, ServerConfig(tls_cert=cert, tls_key=key))
        states.append((found["tls"].state, found["tls"].found.removeprefix(f"{cert}, until {end:%Y-%m-%d}")))
        assert found["tls key"].state == "ok"
    assert states == [("ok", ""), ("warning", ": 9 days left"), ("problem", ": it has ended")]


def test_of_several_certificates_the_one_counts_that_ends_first(certificate, tmp_path):
    now, both = datetime.now(timezone.utc), tmp_path / "both.pem"
    early = now + timedelta(days=9, hours=1)
    (late, key), (soon, _) = certificate(now + timedelta(days=100)), certificate(early, "soon")
    both.write_bytes("# Gr\u00fc\u00dfe\n".encode("latin-1") + late.read_bytes() + soon.read_bytes())
    found = by_name(checks.tls, ServerConfig(tls_cert=both, tls_key=key))["tls"]
    text = f"{both}, 2 certificates, the first of them until {early:%Y-%m-%d}: 9 days left"
    assert (found.state, found.found) == ("warning", text)


def test_the_end_of_a_certificate_is_what_cryptography_reads(certificate, tmp_path):
    ends = [datetime(2049, 12, 31, 23, 59, 58, tzinfo=timezone.utc), datetime(2050, 1, 1, tzinfo=timezone.utc)]
    for end in ends:
        cert, _ = certificate(end)
        read = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
        assert last_moments(cert) == [read] == [end]
    cut = tmp_path / "cut.pem"
    lines = cert.read_text().splitlines()
    cut.write_text("\n".join([lines[0], lines[1], lines[-1]]))
    for path in (cut, tmp_path / "no.pem", certificate()[1]):
        with pytest.raises(InputError, match=f"^{path}: "):
            last_moments(path)


def test_a_key_of_another_certificate_or_that_everybody_reads_is_told(certificate):
    cert, key = certificate()
    key.chmod(0o644)
    assert by_name(checks.tls, ServerConfig(tls_cert=cert, tls_key=key))["tls key"].state == "warning"
    _, other = certificate(name="other")
    with pytest.raises(InputError, match="key values mismatch"):
        only(checks.tls, ServerConfig(tls_cert=cert, tls_key=other))


def test_being_open_to_a_network_on_purpose_is_a_warning():
    config = ServerConfig(host="0.0.0.0", insecure=True)
    assert [only(look, config).state for look in (checks.tls, checks.access)] == ["warning", "warning"]
    assert [only(look, ServerConfig()).state for look in (checks.tls, checks.access)] == ["ok", "ok"]


def test_an_access_file_that_others_can_write_is_refused(tmp_path):
    path = tmp_path / "access.yaml"
    path.write_text(f"- name: cam\n  rights: [inspect]\n  token_sha256: '{'0' * 64}'\n")
    path.chmod(0o640)
    assert only(checks.access, ServerConfig(access=path)).found == f"{path}: cam"
    path.chmod(0o662)
    with pytest.raises(InputError, match="chmod go-w"):
        only(checks.access, ServerConfig(access=path))


def test_an_entry_whose_certificate_nobody_is_asked_for_is_a_warning(tmp_path, certificate):
    path, (cert, key) = tmp_path / "access.yaml", certificate()
    path.write_text("- {name: operator, rights: [admin], certificate: operator.line}\n")
    path.chmod(0o600)
    found = only(checks.access, ServerConfig(access=path))
    assert found.state == "warning"
    assert found.found.startswith(
        f"{path}: operator: found certificate, which no client is asked for without client_ca"
    )
    asked = ServerConfig(access=path, tls_cert=cert, tls_key=key, client_ca=cert)
    assert only(checks.access, asked).state == "ok"


def test_open_files_have_to_be_enough_for_every_stream(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert only(doctor.open_files, ServerConfig()).state == "ok"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, hard))
    found = only(doctor.open_files, ServerConfig(max_streams=200))
    assert (found.state, found.found) == ("problem", "300, 316 needed")
    assert soft > 300


def test_a_container_s_limits_are_compared_with_threads_and_frames(monkeypatch):
    monkeypatch.setattr(doctor, "container_limits", lambda: Limits(1.5, 1 << 30))
    cpu, memory = only(doctor.cpu, ServerConfig(threads=64)), only(doctor.memory, ServerConfig())
    assert (cpu.state, cpu.advice) == ("warning", "set threads to 1")
    assert (memory.state, "limited to 1024" in memory.found) == ("warning", True)
    monkeypatch.setattr(doctor, "container_limits", Limits)
    assert only(doctor.cpu, ServerConfig(threads=1)).state == "ok"
    assert only(doctor.memory, ServerConfig(max_memory_mb=32, max_megapixels=1)).state == "ok"


def test_limits_are_the_tightest_of_the_control_group_and_those_above(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/pod/agvas\n")
    for name, cpu, memory in (
        ("", "max 100000", "max"),
        ("pod", "150000 100000", "1000"),
        ("pod/agvas", "max 100000", "2000"),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cpu.max").write_text(f"{cpu}\n")
        (tmp_path / name / "memory.max").write_text(f"{memory}\n")
    assert container_limits(tmp_path, own) == Limits(1.5, 1000)
    assert container_limits(tmp_path / "no", tmp_path / "no") == Limits()


def test_limits_of_the_first_version_of_control_groups_are_read_too(tmp_path):
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/docker\n3:memory:/docker\n")
    for name, values in (
        ("cpu/docker", {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}),
        ("cpu", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}),
        ("memory/docker", {"memory.limit_in_bytes": "4096"}),
        ("memory", {"memory.limit_in_bytes": str(2**63 - 4096)}),
    ):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file, value in values.items():
            (tmp_path / name / file).write_text(value)
    assert container_limits(tmp_path, own) == Limits(2.0, 4096)


def test_an_engine_on_a_gpu_needs_one(monkeypatch):
    monkeypatch.setattr(doctor, "gpu_memory", list)
    states = [only(doctor.gpu, ServerConfig(engine=engine)).state for engine in ("ort", "auto", "ort-cuda", "tensorrt")]
    assert states == ["ok", "ok", "problem", "problem"]
    monkeypatch.setattr(doctor, "gpu_memory", lambda: [GpuMemory(0, "H", 1 << 30, 80 << 30)])
    assert only(doctor.gpu, ServerConfig(engine="ort-cuda")) == Check("gpu", "ok", "H with 80 GiB, 1.0 in use")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_tensorrt_is_a_problem_only_where_it_is_asked_for():
    states = [only(doctor.tensorrt, ServerConfig(engine=engine)).state for engine in ("auto", "tensorrt")]
    assert states == ["ok", "problem"]


def test_onnxruntime_has_to_be_there_once_and_with_the_provider(monkeypatch):
    versions = {"onnxruntime": "1.0"}
    module = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(doctor, "import_module", lambda name: module)
    assert only(doctor.onnxruntime, ServerConfig()).state == "ok"
    assert only(doctor.onnxruntime, ServerConfig(engine="ort-cuda")).state == "problem"
    versions["onnxruntime-gpu"] = "1.0"
    assert only(doctor.onnxruntime, ServerConfig()).state == "warning"
    versions.clear()
    assert only(doctor.onnxruntime, ServerConfig()).found == "not installed"


def test_missing_packages_are_named(monkeypatch):
    needed = ["numpy>=2", "not-there>=1", 'torch>=2; extra == "train"']
    monkeypatch.setattr(doctor, "requires", lambda name: needed)
    listed, missing = doctor.packages()
    assert "numpy 2" in listed.found
    assert (missing.state, missing.found) == ("problem", "missing: not-there")


def test_memory_that_cannot_be_shared_is_a_problem(monkeypatch):
    assert only(doctor.memfd).state == "ok"

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refused)
    assert only(doctor.memfd).state == "problem"


def test_a_clock_that_nothing_sets_is_a_warning(monkeypatch):
    for answer, state in ((0, "ok"), (-1, "ok"), (doctor.TIME_ERROR, "warning")):
        library = SimpleNamespace(adjtimex=lambda buffer, answer=answer: answer)
        monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name, library=library: library)
        assert only(doctor.clock).state == state


def test_tracing_that_is_wanted_needs_its_packages(monkeypatch):
    assert list(checks.tracing(ServerConfig())) == []
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"agvas\[tracing\]"):
        list(checks.tracing(ServerConfig(tracing=True)))
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert only(checks.tracing, ServerConfig(tracing=True)).found == "http://collector:4318"
