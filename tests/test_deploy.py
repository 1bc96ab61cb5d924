"""What is in deploy/: the example configuration, the systemd unit, the Kubernetes manifests; they fit the server.

Without a cluster and without systemd running: schemas, `systemd-analyze verify`, the server's own reading of settings.
"""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agvas_runtime import __version__
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.config_sources import load
from agvas_runtime.server.notify import notify
from agvas_runtime.server.recipe_file import parse

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DEPLOYMENTS = ("agvas", "agvas-gpu")
SUFFIXES = {"Mi": 1 << 20, "Gi": 1 << 30}


def documents() -> list[dict[str, Any]]:
    """All Kubernetes objects."""
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text("utf-8"))]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def pod(deployment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the pod's spec, its one container's)."""
    spec = named("Deployment", deployment)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def config(deployment: str, tmp_path: Path) -> ServerConfig:
    """The configuration that the deployment's server ends up with."""
    _, container = pod(deployment)
    command, flag, path = container["args"]
    assert (command, flag) == ("serve", "--config")
    file = tmp_path / Path(path).name
    file.write_text(named("ConfigMap", "agvas-config")["data"][file.name], "utf-8")
    return load({}, file, {entry["name"]: entry["value"] for entry in container["env"]}).config


def unit() -> dict[str, str]:
    """The unit's settings; of those that stand several times the last."""
    lines = (DEPLOY / "agvas.service").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def seconds(text: str) -> float:
    number, suffix = re.fullmatch(r"(\d+)(min|s|)", text).groups()
    return float(number) * (60 if suffix == "min" else 1)


def test_the_example_configuration_loads():
    assert load({}, DEPLOY / "agvas.yaml", {}).config.metrics_port == 9464


def test_the_example_configuration_shows_every_setting_with_its_default():
    text = (DEPLOY / "agvas.yaml").read_text("utf-8")
    shown = re.findall(r"^(?:# )?([a-z_]+: [^ ]+)$", text, re.MULTILINE)
    settings = yaml.safe_load("\n".join(shown).replace("metrics_port: 9464", "metrics_port: null"))
    assert sorted(settings) == sorted(ServerConfig.model_fields)
    assert ServerConfig(**settings) == ServerConfig()


def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    text = (DEPLOY / "agvas.service").read_text("utf-8")
    here = Path(sys.executable).with_name("agvas-runtime")
    (tmp_path / "agvas.service").write_text(text.replace("/opt/agvas/bin/agvas-runtime", str(here)))
    done = subprocess.run(
        [analyze, "verify", tmp_path / "agvas.service"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_lets_the_server_drain_and_its_engines_answer():
    settings = unit()
    assert seconds(settings["TimeoutStopSec"]) >= ServerConfig().drain_s + 10
    assert settings["KillMode"] == "mixed"
    assert settings["OOMPolicy"] == "continue"
    assert int(settings["LimitNOFILE"]) >= 10_000


def test_the_unit_s_sandbox_leaves_what_the_server_needs():
    settings = unit()
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork", "DeviceAllow", "ProtectClock"} & set(
        settings
    )
    assert settings["SystemCallFilter"] == "@system-service"
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} <= set(settings["RestrictAddressFamilies"].split())


def test_the_unit_leaves_clients_of_the_server_s_user_their_shared_memory():
    assert unit().get("RemoveIPC", "no") == "no"


def test_the_service_manager_is_told(tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("STOPPING=1")  # nobody listens any more
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{path}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_the_manifests_are_what_kubernetes_expects():
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in documents():
        kubernetes.validate(document, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_s_configuration_loads_and_asks_for_tls_and_tokens(name, tmp_path):
    found = config(name, tmp_path)
    assert None not in (found.tls_cert, found.tls_key, found.access)
    assert not found.insecure
    assert found.engine == ("ort-cuda" if name == "agvas-gpu" else "auto")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_path_of_the_configuration_is_mounted_from_something_that_is_there(name, tmp_path):
    spec, container = pod(name)
    mounts = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert sorted(mounts.values()) == sorted(volumes)
    found = config(name, tmp_path)
    for path in (found.tls_cert, found.tls_key, found.access, found.recipes, Path(container["args"][2])):
        assert {path, path.parent} & set(mounts), path
    for volume in volumes.values():
        if "configMap" in volume:
            assert named("ConfigMap", volume["configMap"]["name"])["data"]
        if "secret" in volume:
            assert volume["secret"]["secretName"] in ("agvas-tls", "agvas-access")
            assert volume["secret"]["defaultMode"] & 0o027 == 0  # others neither read nor write; the group only reads


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_probes_ask_the_port_of_the_metrics_and_wait_for_the_engines(name, tmp_path):
    _, container = pod(name)
    found = config(name, tmp_path)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": found.port, "metrics": found.metrics_port}
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {get["port"] for get in asked.values()} == {"metrics"}
    assert [get["path"] for get in asked.values()] == ["/readyz", "/readyz", "/healthz"]
    startup = container["startupProbe"]
    patience_s = startup["periodSeconds"] * startup["failureThreshold"]
    assert patience_s >= (1800 if name == "agvas-gpu" else 300)
    annotations = named("Deployment", name)["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(found.metrics_port)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_drains_is_no_root_and_stays_in_its_limits(name, tmp_path):
    spec, container = pod(name)
    found = config(name, tmp_path)
    assert spec["terminationGracePeriodSeconds"] >= found.drain_s + 10
    assert spec["enableServiceLinks"] is False  # AGVAS_PORT of a Service would be a setting
    assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"]) == (True, 10001)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    limits = container["resources"]["limits"]
    number, suffix = limits["memory"][:-2], limits["memory"][-2:]
    assert int(number) * SUFFIXES[suffix] >= (found.max_memory_mb + 1024) * SUFFIXES["Mi"]
    if name == "agvas-gpu":
        assert limits["nvidia.com/gpu"] == "1"
    else:
        assert int(limits["cpu"]) >= found.threads


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_runs_this_version_and_the_service_finds_it(name):
    found = named("Deployment", name)["spec"]
    labels = found["template"]["metadata"]["labels"]
    _, container = pod(name)
    assert container["image"].split(":")[1].split("-")[0] == __version__
    assert found["selector"]["matchLabels"].items() <= labels.items()
    service = named("Service", "agvas")["spec"]
    assert service["selector"].items() <= labels.items()
    assert {port["targetPort"] for port in service["ports"]} <= {port["name"] for port in container["ports"]}


def test_two_deployments_never_own_each_other_s_pods():
    cpu, gpu = (named("Deployment", name)["spec"] for name in DEPLOYMENTS)
    assert not cpu["selector"]["matchLabels"].items() <= gpu["template"]["metadata"]["labels"].items()


def test_the_recipes_in_the_manifests_can_be_used():
    for file, text in named("ConfigMap", "agvas-recipes")["data"].items():
        assert parse(file.removesuffix(".yaml"), text.encode()).sha256
