"""The server's configuration: its sources, its errors, and the command that takes it."""

import json
import logging
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml
from pydantic import ValidationError

from agvas_runtime import cli_serve, console
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Request
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.config_sources import load

REPOSITORY = Path(__file__).resolve().parents[2]
FIELDS = list(ServerConfig.model_fields)


@pytest.fixture
def file(tmp_path):
    """Writes agvas.yaml."""

    def write(text: str) -> Path:
        path = tmp_path / "agvas.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture
def serve(capsys, monkeypatch):
    """Runs `serve` in this process; returns (exit code, stdout, stderr). The log's level is as before in the end."""
    ours = logging.getLogger("agvas")
    level = ours.level
    for name in FIELDS:
        monkeypatch.delenv(f"AGVAS_{name.upper()}", raising=False)
    app = console.make_app("A server.")
    app.command()(cli_serve.serve)
    app.command("other")(lambda: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            console.run(app, ["serve", *map(str, arguments)])
        return caught.value.code, *capsys.readouterr()

    yield call
    ours.setLevel(level)


def error(flags: dict | None = None, file: Path | None = None, environ: dict | None = None) -> str:
    """What the sources are refused with."""
    with pytest.raises(InputError) as caught:
        load(flags or {}, file, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_later_sources_have_precedence_and_every_value_knows_where_it_came_from(file):
    path = file("port: 1\nmax_batch: 1\nmax_streams: 1\n")
    environ = {"AGVAS_MAX_BATCH": "2", "AGVAS_MAX_STREAMS": "2"}
    loaded = load({"max_streams": "3"}, path, environ)
    config = loaded.config
    assert (config.max_waiting, config.port, config.max_batch, config.max_streams) == (16, 1, 2, 3)
    names = {field: source.name for field, source in loaded.sources.items()}
    assert names == {"port": "agvas.yaml", "max_batch": "AGVAS_MAX_BATCH", "max_streams": "--max-streams"}


def test_the_environment_may_name_the_file_and_the_flag_goes_before_it(file, tmp_path):
    path = file("port: 7")
    other = tmp_path / "other.yaml"
    other.write_text("port: 8")
    assert load(environ={"AGVAS_CONFIG": str(path)}).config.port == 7
    assert load({}, other, {"AGVAS_CONFIG": str(path)}).config.port == 8


def test_paths_in_the_file_count_from_its_folder_and_others_from_the_working_folder(file):
    path = file("bundle: models/a\nrecipes: /srv/recipes\n")
    config = load({}, path, {"AGVAS_ACCESS": "access.yaml"}).config
    assert config.bundle == path.parent / "models" / "a"
    assert config.recipes == Path("/srv/recipes")
    assert config.access == Path("access.yaml")


def test_the_printed_configuration_gives_the_same_again_and_names_every_source(file, tmp_path):
    loaded = load({"warm": ["a # b", 'say "ü"'], "bundle": "here"}, file("rate_per_s: 2.5\n"), {"AGVAS_TRACING": "yes"})
    printed = loaded.as_yaml()
    assert list(yaml.safe_load(printed)) == FIELDS
    again = tmp_path / "again" / "printed.yaml"
    again.parent.mkdir()
    again.write_text(printed, "utf-8")
    expected = loaded.config.model_copy(update={"bundle": Path("here").absolute()})
    assert load({}, again, {}).config == expected
    lines = {line.split(":")[0]: line for line in printed.splitlines()}
    assert lines["warm"].endswith("  # --warm")
    assert lines["rate_per_s"] == "rate_per_s: 2.5  # agvas.yaml"
    assert lines["tracing"] == "tracing: true  # AGVAS_TRACING"
    assert lines["port"] == "port: 50051  # default"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: x", "agvas.yaml: port: found 'x', expected an integer"),
        ("port: 65536", "agvas.yaml: port: found 65536, expected at most 65535"),
        ("port: true", "agvas.yaml: port: found true, expected another value"),
        ("port: yes", "agvas.yaml: port: found 'yes', expected an integer"),
        ("port: [1]", "agvas.yaml: port: found [1], expected an integer"),
        ("threads: 0", "agvas.yaml: threads: found 0, expected at least 1"),
        ("drain_s: .nan", "agvas.yaml: drain_s: found '.nan', expected a number"),
        ("drain_s: 1e999", "agvas.yaml: drain_s: found inf, expected a finite number"),
        ("rate_per_s: 0", "agvas.yaml: rate_per_s: found 0, expected more than 0"),
        ("tracing: 7", "agvas.yaml: tracing: found 7, expected true or false"),
        ("log_format: xml", "agvas.yaml: log_format: found 'xml', expected 'text' or 'json'"),
        ("engine: tensort", "agvas.yaml: engine: found 'tensort', expected auto, ort, ort-cuda, tensorrt"),
        ("warm: scratches", "agvas.yaml: warm: found 'scratches', expected a list"),
        ("warm: ['a', ' ']", "agvas.yaml: warm: instruction: found a blank text, expected words"),
        ("bundle: [a]", "agvas.yaml: bundle: found ['a'], expected a path"),
        ("prot: 1", "agvas.yaml: prot: no such setting; did you mean port?"),
        ("zzz: 1", "agvas.yaml: zzz: no such setting; `agvas-runtime serve --print-config` shows those there are"),
        ("port: 1\nport: 2", "agvas.yaml: line 2, column 1: 'port' stands twice"),
        ("port: [1", "agvas.yaml: line 1, column 9: expected ',' or ']', but got '<stream end>'"),
        ("- port", "agvas.yaml: found ['port'], expected settings, such as port: 50051"),
        ("port: !!python/object:os.system x", "agvas.yaml: line 1, column 7: found an anchor, an alias or a tag"),
        ("warm: &a [*a]", "agvas.yaml: line 1, column 7: found an anchor, an alias or a tag, expected plain values"),
        ("? [a]\n: 1", "agvas.yaml: line 1, column 3: expected a plain name before the colon"),
    ],
)
def test_a_fault_in_the_file_names_file_field_and_what_was_expected(file, text, expected):
    assert error(file=file(text)).startswith(expected)


def test_a_fault_names_the_variable_or_the_flag_that_has_to_be_changed(file):
    assert error(environ={"AGVAS_PORT": "x"}) == "AGVAS_PORT: found 'x', expected an integer"
    assert error({"port": "x"}) == "--port: found 'x', expected an integer"
    assert error({"max_message_mb": "0"}) == "--max-message-mb: found '0', expected at least 1"
    good = file("port: 5")
    assert error({}, good, {"AGVAS_PORT": "-1"}).startswith("AGVAS_PORT: ")


def test_a_value_that_nobody_can_read_in_a_line_is_cut(file):
    assert error({"port": "x" * 1000 + "\n\x1b"}) == f"--port: found '{'x' * 59}..., expected an integer"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe", "byte 1 is no UTF-8 text"),
        (b"port: 1\n" + b"#" * (1 << 20), "found more than 1024 KiB, expected a configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, content, expected):
    path = tmp_path / "agvas.yaml"
    path.write_bytes(content)
    assert error(file=path) == f"agvas.yaml: {expected}"


def test_a_missing_file_is_named_with_who_asked_for_it(tmp_path):
    path = tmp_path / "no.yaml"
    assert error(file=path) == f"--config: {path}: no such file or directory"
    assert error(environ={"AGVAS_CONFIG": str(path)}) == f"AGVAS_CONFIG: {path}: no such file or directory"
    assert error(file=tmp_path) == f"--config: {tmp_path}: is a directory"


def test_a_mistyped_variable_is_refused_and_those_of_kubernetes_are_not():
    assert error(environ={"AGVAS_PROT": "1"}) == "AGVAS_PROT: no such setting; did you mean AGVAS_PORT?"
    assert error(environ={"AGVAS_MAX_STREAM": "1"}).endswith("did you mean AGVAS_MAX_STREAMS?")
    of_a_service = {"AGVAS_SERVICE_HOST": "10.0.0.1", "AGVAS_SERVICE_PORT": "1", "AGVAS_PORT_50051_TCP_PORT": "1"}
    others = {"AGVAS_SHARED": "/x", "AGVAS_TOKEN": "x", "AGVAS_PORT": "", "PORT": "x"}
    assert load(environ=of_a_service | others).config == ServerConfig()


def test_a_variable_of_several_values_is_one_of_them_or_a_list():
    assert load(environ={"AGVAS_WARM": "a, b"}).config.warm == ("a, b",)
    assert load(environ={"AGVAS_DEVICES": "[0, '1,2']"}).config.devices == ("0", "1,2")
    assert error(environ={"AGVAS_WARM": "[a"}).startswith("AGVAS_WARM: found '[a', expected a list")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"host": "0.0.0.0"}, "--host"),
        ({"host": "::"}, "--host"),
        ({"host": "line-pc"}, "--host"),
        ({"host": "0.0.0.0", "access": "a"}, "--host"),
        ({"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k"}, "--host"),
        ({"tls_cert": "c"}, "--tls-cert"),
        ({"tls_key": "k"}, "--tls-key"),
        ({"client_ca": "c"}, "--client-ca"),
        ({"metrics_host": "0.0.0.0", "metrics_port": "9464"}, "--metrics-host"),
        ({"port": "9464", "metrics_port": "9464"}, "--metrics-port"),
        ({"max_memory_mb": "381"}, "--max-memory-mb"),
    ],
)
def test_what_contradicts_itself_or_is_open_by_accident_is_refused(values, field):
    assert error(values).startswith(f"{field}: found ")


@pytest.mark.parametrize(
    "values",
    [
        {"host": "127.0.0.2"},
        {"host": "localhost", "access": "a"},
        {"host": "::1"},
        {"host": "0.0.0.0", "insecure": True},
        {"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k", "access": "a"},
        {"host": "0.0.0.0", "tls_cert": "c", "tls_key": "k", "client_ca": "a"},
        {"metrics_host": "0.0.0.0"},
        {"metrics_host": "0.0.0.0", "metrics_port": "0", "metrics_insecure": True},
        {"port": "0", "metrics_port": "0"},
        {"max_memory_mb": "382"},
    ],
)
def test_what_is_closed_or_open_on_purpose_is_taken(values):
    assert load(values, environ={}).config


def test_a_configuration_cannot_be_changed_or_have_other_fields():
    with pytest.raises(ValidationError):
        ServerConfig().port = 1
    with pytest.raises(ValidationError):
        ServerConfig(prot=1)


def test_the_engine_gets_what_belongs_to_it():
    config = ServerConfig(bundle="b", engine="ort", threads=2, warm=["a"], max_batch=3)
    spec = config.engine_spec()
    assert (spec.bundle, spec.engine, spec.threads, spec.max_batch) == (Path("b"), "ort", 2, 3)
    assert spec.warm == (Request(instruction="a"),)


def test_every_setting_is_an_option_with_its_meaning_and_its_default(serve):
    code, out, _ = serve("--help")
    assert code == 0
    text = " ".join(out.split())
    for name, field in ServerConfig.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert field.description
        assert re.search("default|need|with|without", field.description), name


def test_every_setting_is_in_the_documentation_with_its_default():
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \|", (REPOSITORY / "docs" / "operation.md").read_text("utf-8"), re.MULTILINE
    )
    documented = {name: default.strip() for name, default in rows if name in FIELDS}
    expected = {name: ServerConfig.model_fields[name].default for name in FIELDS}
    assert list(documented) == FIELDS
    shown = {None: "none", True: "on", False: "off", (): "none"}
    assert documented == {name: shown.get(value, str(value)) for name, value in expected.items()}


def test_print_config_prints_and_serves_nothing(serve, file):
    path = file("max_batch: 2\n")
    code, out, err = serve("--config", path, "--print-config", "--port", "0", "--warm", "a", "--warm", "b", "--tracing")
    assert (code, err) == (0, "")
    printed = yaml.safe_load(out)
    assert [printed[name] for name in ("max_batch", "port", "warm", "tracing")] == [2, 0, ["a", "b"], True]
    assert "max_batch: 2  # agvas.yaml\n" in out


def test_a_flag_can_take_back_what_the_file_says(serve, file):
    assert "tracing: true  # agvas.yaml\n" in serve("--config", file("tracing: true\n"), "--print-config")[1]
    assert (
        "tracing: false  # --tracing\n"
        in serve("--config", file("tracing: true\n"), "--no-tracing", "--print-config")[1]
    )


def test_a_wrong_flag_is_exit_code_2_and_one_line(serve):
    assert serve("--port", "x") == (2, "", "error: --port: found 'x', expected an integer\n")
    assert serve("--warm", "a", "--warm", " ")[2] == "error: --warm: instruction: found a blank text, expected words\n"
    assert serve("--host", "0.0.0.0")[0] == 2


class Standing(SimpleNamespace):
    """A server as `serve` tells of it."""

    def __init__(self, **values: object) -> None:
        model = SimpleNamespace(name="agvas-tiny", bundle_sha256="ab")
        super().__init__(**{"host": "::1", "port": 5, "metrics_port": 6, "model": model} | values)

    def engines(self):
        return [SimpleNamespace(device="0", pid=7)]


def test_the_ready_line_is_one_json_line_or_one_for_people(serve, monkeypatch, file):
    started = []

    def run(config, ready):
        started.append(config)
        ready(Standing())

    monkeypatch.setattr("agvas_runtime.server.serve.serve", run, raising=False)
    code, out, err = serve("--json", "--port", "0")
    event = json.loads(out)
    assert (code, err) == (0, "")
    assert event.pop("pid") > 0
    assert event == {
        "event": "ready",
        "host": "::1",
        "port": 5,
        "metrics_port": 6,
        "model": "agvas-tiny",
        "bundle_sha256": "ab",
        "engines": [{"device": "0", "pid": 7}],
    }
    assert serve("--port", "0")[1:] == ("", "ready: agvas-tiny on [::1]:5\n")
    *_, line = serve("--port", "0", "--log-format", "json", "--log-level", "error")
    assert {"event": "ready", "port": 5, "message": "ready"}.items() <= json.loads(line).items()
    assert [config.port for config in started] == [0, 0, 0]
    assert not [thread for thread in threading.enumerate() if thread.name == "log"]


def test_settings_can_be_given_to_any_command():
    seen = {}

    @cli_serve.with_settings
    def command(**settings: object) -> None:
        seen.update(settings)

    app = typer.Typer()
    app.command()(command)
    with pytest.raises(SystemExit):
        app(["--max-batch", "3"])
    assert set(seen) == set(FIELDS)
    assert {name: value for name, value in seen.items() if value} == {"max_batch": "3"}
