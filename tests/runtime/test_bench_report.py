"""agvas-bench report: the page, the plots and the data of reports, and what is said of files that are none."""

import io
import json
import subprocess
import sys
from base64 import b64encode
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import console
from agvas_runtime.bench.cli_report import report
from agvas_runtime.bench.report import PLOTS, check_can_report, write_report
from agvas_runtime.bench.report.html import table
from agvas_runtime.bench.report.schema import read_report
from agvas_runtime.bench.report.style import apart
from agvas_runtime.bench.report.text import ms, percent, short_names
from agvas_runtime.errors import EngineError, InputError
from tests.runtime.bench_reports import engine_report, serve_report, serve_step, with_everything

app = console.make_app("Test.")
app.command()(report)

SCRIPT = '"><script>&amp;</script>$x$'
VOID = ("meta", "img", "link", "br", "hr")


class Page(HTMLParser):
    """A page as a browser sees it; raises where an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.values, self.images, self.links, self.words = [], set(), set(), [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.values.update([float(found["value"])] if tag == "data" and "value" in found else [])
        self.images += [found] if tag == "img" else []
        self.links += [found[name] for name in ("href", "src", "action", "data", "poster") if name in found]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def text(self):
        return " ".join(" ".join(self.words).split())


def figures_of(value):
    """All numbers of a report but the raw samples, the machine and what the page says in words."""
    left_out = (
        "samples",
        "yardstick_ms",
        "elsewhere_ms",
        "machine",
        "load",
        "statuses",
        "outcomes",
        "carried",
        "trie",
        "seconds",
    )
    if isinstance(value, dict):
        return [found for name, item in value.items() if name not in left_out for found in figures_of(item)]
    if isinstance(value, list):
        return [found for item in value for found in figures_of(item)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def shown_of_engine(engine):
    """The numbers that the page's tables must hold."""
    shown = []
    for each in engine["contenders"]:
        shown += figures_of([each["stages_ms"], each["frames_per_s"], each["throughput"], each["alone"], each["data"]])
        shown += figures_of(each["quality"])
        for group in each["groups"].values():
            call = group["stages_ms"]["call"]
            shown += [group["frames"], call["p50"], call["p99"]]
            if each["name"] != engine["base"]:
                shown += [times["median"] for times in group["times_of_base"].values()]
    return shown


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of everything, of two kinds: its folder, what went in, and the page."""
    folder = tmp_path_factory.mktemp("bench") / "new" / "report"
    engine = with_everything(engine_report({SCRIPT: 1.0, "plain": 1.4, "slow": 11.0}, 80))
    engine["contenders"][2]["weights"] = "random weights: speed only"
    serve = serve_report((1, 4, 12))
    serve["load"]["max_miss_share"] = 0.001
    reports = [engine, serve, engine_report({"one": 1.0}, 1)]
    files = write_report(reports, folder)
    assert sorted(files) == sorted(folder.iterdir())
    return folder, reports, Page((folder / "report.html").read_text("utf-8"))


def test_the_page_holds_every_figure_exactly(written):
    _, (engine, serve, second), page = written
    for one in (engine, second):
        assert set(map(float, shown_of_engine(one))) - page.values == set()
    assert set(figures_of(serve["steps"])) - page.values == set()


def test_the_page_names_machine_versions_commit_hashes_and_what_must_be_said(written):
    _, (engine, serve, _), page = written
    text, machine = page.text(), engine["machine"]
    wanted = [
        *("Engine 1: 3 contenders", "Serving 1: tiny at 3 loads", "Engine 2: 1 contender"),
        *(
            machine["cpu"],
            machine["commit"],
            "8.0 GiB",
            "1.5 cores, 6.0 GiB memory",
            "2 x NVIDIA L4, driver 570.86.15",
            "onnxruntime 1.32.0",
            "Python 3.11.7",
        ),
        *("2026-11-26 10:00:00 UTC", "slow: random weights: speed only", "Find the defect."),
        *(engine["contenders"][0]["model_sha256"], serve["target"]["model_sha256"]),
        f"{machine['cpu']} · 2 cores, limited to 1.5 · 2 x NVIDIA L4 · agvas",
        "target to keep p99 at most 33 ms, misses at most 0.10 %",
        "Up to 4 cameras kept the target; the first to break it had 12 cameras.",
    ]
    assert [each for each in wanted if each not in text] == []


def test_the_page_fetches_nothing_and_runs_nothing(written):
    folder, _, page = written
    assert page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert "default-src 'none'" in (folder / "report.html").read_text("utf-8")
    assert "url(" not in (folder / "report.html").read_text("utf-8")


def test_names_are_text_whatever_they_hold(written):
    _, _, page = written
    assert SCRIPT in page.text()
    assert any(SCRIPT in image["alt"] for image in page.images)


def test_every_plot_is_a_picture_beside_the_page_and_in_it(written):
    folder, _, page = written
    plots = {path.name: path for path in folder.glob("*.png")}
    whole = {f"{kind}-1-{name}.png" for kind, drawn in PLOTS.items() for name in drawn}
    assert set(plots) == {*whole, "engine-2-stages.png", "engine-2-waterfall.png", "engine-2-known-answers.png"}
    assert len(page.images) == len(plots)
    assert {f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}" for path in plots.values()} == {
        i["src"] for i in page.images
    }
    assert all(len(image["alt"]) > 20 for image in page.images)
    for path in plots.values():
        assert_drawn(path.read_bytes())


def assert_drawn(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert pixels.shape[1] == 1800
    assert (pixels != 255).any(axis=2).mean() > 0.01
    assert (pixels[:, -4:] == 255).all()  # nothing is cut off at the right, the names' side
    assert (pixels[:4] == 255).all()


def test_the_data_are_the_reports_with_their_samples(written):
    folder, reports, _ = written
    assert json.loads((folder / "report.json").read_text()) == {"schema": 3, "kind": "report", "reports": reports}


def test_what_was_not_measured_is_left_out(tmp_path):
    engine = engine_report({"one": 1.0}, 1)
    each = engine["contenders"][0]
    each.update(model_sha256=None, groups={}, instruction="", frames_per_s=None)
    engine.update(threads=None, frame_bytes_mean=None, yardstick_ms=[])
    engine["machine"] = {"cpu": "unknown", "commit": None, "packages": {}}
    write_report([engine], tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["engine-1-stages.png", "engine-1-waterfall.png"]
    assert [word for word in ("Quality", "Throughput", "Loading", "Kinds of frames") if word in page.text()] == []
    assert set(each["stages_ms"]["call"].values()) <= page.values


def test_a_report_full_of_nulls_is_shown(tmp_path):
    engine = with_everything(engine_report({"a": 1.0, "b": 2.0}, 20))
    for each in engine["contenders"]:
        gpu = {"name": "GPU", "before_bytes": None, "loaded_bytes": None, "peak_bytes": None}
        energy = {"source": "rapl", "joules_per_frame": None, "watts_mean": None}
        each["alone"] = {**dict.fromkeys(each["alone"]), "device": gpu, "energy": energy}
        each["throughput"] = [{"batch": n, "frames_per_s": None, "ms_per_frame": None} for n in (1, 2)]
        each["quality"] = {"against": "b", "frames": 0, "iou_mean": None, "iou_min": None, "same_verdicts": 0}
        each["data"] = {**each["data"], "ap": None, "f1_max": None, "iou_ano": None, "iou_nor": None}
        for group in each["groups"].values():
            group["times_of_base"] = {"call": {"median": None, "low": None, "high": None}}
        each["samples"]["times_ms"] = {"call": [None] * 20}
    (tmp_path / "nulls.json").write_text(json.dumps(engine))
    write_report([read_report(tmp_path / "nulls.json")], tmp_path / "out")
    assert "engine-1-drift.png" not in {path.name for path in (tmp_path / "out").iterdir()}
    assert "n/a" in Page((tmp_path / "out" / "report.html").read_text()).text()


def test_a_step_without_any_answer_is_shown(tmp_path):
    serve = serve_report((2,), 33.0)
    serve["steps"].append(serve_step(16, 33.0, lost=True))
    (tmp_path / "serve.json").write_text(json.dumps(serve))
    write_report([read_report(tmp_path / "serve.json")], tmp_path / "out")
    text = Page((tmp_path / "out" / "report.html").read_text()).text()
    assert "1,600 DROPPED" in text
    assert "broken" in text


def test_a_ramp_in_which_nothing_was_answered_is_shown(tmp_path):
    serve = serve_report((), None)
    serve["steps"] = [serve_step(2, None, lost=True)]
    write_report([serve], tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["serve-1-load.png"]


@pytest.mark.filterwarnings("error")
def test_twelve_contenders_with_long_and_odd_names_fit():
    names = {f"bundles/line-7/a-long-way-down/{n}/int8-{'x' * 30}": 1 + n for n in range(10)}
    engine = with_everything(engine_report({**names, "$\\frac$": 12.0, "检查\n$": 13.0}, 20))
    drawn = {name: draw(engine) for name, draw in PLOTS["engine"].items()}
    for plot in drawn.values():
        assert_drawn(plot.png)


def test_numbers_of_a_running_bench_are_taken_as_they_would_be_written(tmp_path):
    engine = engine_report({"a": 1.0}, 5)
    engine["contenders"][0]["frames_per_s"] = np.float64(12.5)
    engine["frame_bytes_mean"] = float("nan")
    engine["elsewhere_ms"] = [sum(engine["contenders"][0]["samples"]["times_ms"]["call"]) / 5, -1e-9, 0, 0, 0]
    write_report([engine], tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert 12.5 in page.values
    assert "others meanwhile took 20 % of one core's time" in page.text()


def test_a_new_report_takes_an_earlier_one_s_place_and_leaves_the_rest_alone(tmp_path):
    write_report([engine_report({"a": 1.0}, 3), engine_report({"a": 1.0}, 1)], tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write_report([engine_report({"a": 1.0}, 1)], tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept >= {"notes.txt", "engine-1-stages.png"}
    assert kept & {"engine-2-stages.png", "engine-1-drift.png"} == set()


@pytest.mark.parametrize("name", ["notes.txt", "report.json"])
def test_a_folder_of_other_things_is_refused(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(engine_report({"a": 1.0}, 1)))
    with pytest.raises(InputError, match=r"holds other files but no earlier report \(report.json\)"):
        write_report([engine_report({"a": 1.0}, 1)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_places_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: found a file, expected a folder"):
        check_can_report(tmp_path / "file")
    with pytest.raises(InputError, match="below: cannot write into this folder: Not a directory"):
        write_report([engine_report({"a": 1.0}, 1)], tmp_path / "file" / "below")
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    earlier = '{"schema": 3, "kind": "report", "reports": []}'
    (tmp_path / "out" / "report.json").write_text(earlier)
    with pytest.raises(EngineError, match=r"report\.html: cannot write: found a folder"):
        write_report([engine_report({"a": 1.0}, 1)], tmp_path / "out")
    assert (tmp_path / "out" / "report.json").read_text() == earlier, "data of one report beside the page of another"


def test_without_matplotlib_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EngineError, match=r"pip install 'agvas\[report\]'"):
        write_report([engine_report({"a": 1.0}, 1)], tmp_path)


def test_a_matplotlib_that_does_not_import_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "matplotlib.py").write_text("raise AttributeError('built for another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(EngineError, match=r"matplotlib, .* cannot be imported: built for another numpy"):
        check_can_report(tmp_path / "new")


def test_nothing_imports_matplotlib_before_it_draws():
    imported = "agvas_runtime.bench.report, agvas_runtime.bench.cli_report"
    code = f"import sys, {imported}; assert 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def command(capfd, *args):
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(arg) for arg in args])
    out, err = capfd.readouterr()
    return left.value.code, out, err


def test_the_command_says_what_it_wrote(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps(engine_report({"a": 1.0}, 1)))
    code, out, _ = command(capfd, "one.json")
    assert code == 0
    assert out.splitlines()[:2] == ["report/report.html", "report/report.json"]
    code, out, _ = command(capfd, "one.json", "--out", "other", "--json")
    assert code == 0
    assert set(json.loads(out)) == {str(path.relative_to(tmp_path)) for path in (tmp_path / "other").iterdir()}


def broken(**changes):
    return json.dumps({**engine_report({"a": 1.0}, 1), **changes})


def changed(make, path, value):
    """A report of which one value is another."""
    report = json.loads(json.dumps(make()))  # none of it is another's
    *way, last = path
    place = report
    for name in way:
        place = place[name]
    place[last] = value
    return json.dumps(report)


def engine(path, value):
    return changed(lambda: engine_report({"a": 1.0, "b": 1.0}, 2), path, value)


def serving(path, value):
    return changed(lambda: serve_report((1,)), path, value)


SAMPLES, STEP = ("contenders", 1, "samples"), ("steps", 0, "samples")


def without(part, name):
    engine = engine_report({"a": 1.0}, 1)
    del {"contender": engine["contenders"][0], "stages": engine["contenders"][0]["stages_ms"],
         "call": engine["contenders"][0]["stages_ms"]["call"], "report": engine}[part][name]  # fmt: skip
    return json.dumps(engine)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (broken(schema=2), "schema 2, expected 3"),
        (broken(kind="report"), "kind 'report', expected 'engine' or 'serve'"),
        (broken(kind=["engine"]), "kind ['engine'], expected"),
        (broken(kind="serve"), "target: Field required"),
        (broken(contenders=[]), "contenders: List should have at least 1 item"),
        (broken(frames=float("nan")), "no JSON: NaN is no number of JSON"),
        (broken(warmup="1e999").replace('"1e999"', "1e999"), "warmup: "),
        (without("report", "schema"), "no report: found no 'schema', expected 3"),
        (without("contender", "alone"), "contenders.0.alone: Field required"),
        (without("stages", "call"), "contenders.0.stages_ms: Value error, has no stage 'call'"),
        (without("call", "p99.9"), "contenders.0.stages_ms.call: Value error, has no p99.9"),
        (engine(("yardstick_ms",), [None, 1.0]), "yardstick_ms.0: Input should be a valid number"),
        (engine(("elsewhere_ms",), [None, 1.0]), "elsewhere_ms.0: Input should be a valid number"),
        (engine(("yardstick_ms",), ["1.5", 1.0]), "yardstick_ms.0: Input should be a valid number"),
        (engine(("frames",), "2"), "frames: Input should be a valid integer"),
        (serving((*STEP, "camera", 3), "0"), "steps.0.samples.camera.3: Input should be a valid integer"),
        (engine(("yardstick_ms",), [1.0]), "the report: Value error, yardstick_ms: found 1 values, expected 2"),
        (engine(("elsewhere_ms",), [1.0] * 3), "the report: Value error, elsewhere_ms: found 3 values, expected 2"),
        (
            engine((*SAMPLES, "times_ms", "llm"), [1.0]),
            "the report: Value error, contenders.1.samples.times_ms.llm: found 1 values, expected 2, one for ev",
        ),
        (engine((*SAMPLES, "one_pass"), [True]), "the report: Value error, contenders.1.samples.one_pass: found 1"),
        (engine((*SAMPLES, "times_ms", "llm", 1), -1.0), "contenders.1.samples.times_ms.llm.1: Input should be gr"),
        (engine((*SAMPLES, "times_ms", "llm", 1), 1e9), "contenders.1.samples.times_ms.llm.1: Input should be less"),
        (engine(("contenders", 0, "stages_ms", "call", "p50"), -1), "contenders.0.stages_ms.call.p50: Input should"),
        (engine(("machine", "packages"), ["numpy"]), "machine.packages: Input should be a valid dict"),
        (engine(("machine", "packages", "numpy"), None), "machine.packages.numpy: Input should be a valid string"),
        (engine(("machine", "gpus"), [1]), "machine.gpus.0: Input should be a valid string"),
        (serving((*STEP, "overhead_ms"), None), "steps.0.samples.overhead_ms: Input should be a valid list"),
        (serving((*STEP, "engine_ms"), [1.0]), "steps.0.samples: Value error, engine_ms: found 1 values, expected 100"),
        (serving((*STEP, "camera", 3), 1), "steps.0: Value error, samples.camera: found 1, expected places in per"),
        (serving((*STEP, "latency_ms", 3), -0.1), "steps.0.samples.latency_ms.3: Input should be greater than or eq"),
        ("[3]", "no report: found no 'schema'"),
        ("{", "no JSON: Expecting property name"),
        ("\x00\xff", "no JSON: "),
        ("[" * 100_000, "no JSON: "),
    ],
)
def test_a_file_that_is_no_report_is_named_in_one_line(capfd, tmp_path, content, line):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    code, out, err = command(capfd, tmp_path / "x.json", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'x.json'}: {line}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_a_file_that_cannot_be_read_is_named(capfd, tmp_path, name):
    code, _, err = command(capfd, tmp_path / name)
    assert code == 2
    assert "cannot read" in err


def test_names_are_shortened_in_their_middle_and_stay_apart():
    assert short_names(["short", "two\nlines", ""]) == ["short", "two lines", "?"]
    long = [f"{'a' * 40}{n}{'b' * 40}" for n in range(2)]
    assert short_names(long, 11) == ["1: aaaaa…bbbbb", "2: aaaaa…bbbbb"]


def test_labels_move_apart_no_further_than_they_must():
    assert apart([0.5, 0.1, 0.9], 0.1) == [0.5, 0.1, 0.9]
    assert apart([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert apart([0.0, 0.1, 0.1, 1.0], 0.3) == pytest.approx([-7 / 30, 2 / 30, 11 / 30, 1.0])
    assert apart([], 0.1) == []


def test_figures_are_written_with_the_digits_that_matter():
    assert [ms(each) for each in (0.0, 0.0421, 4.921, 49.21, 492.14, 12345.6, None)] == [
        "0.00", "0.042", "4.92", "49.21", "492.1", "12,346", "n/a"]  # fmt: skip
    assert [percent(each) for each in (0.0, 0.0003, 0.012, 1.0, None)] == ["0", "0.03", "1.2", "100", "n/a"]


def test_columns_without_anything_are_left_out():
    assert "second" not in table("", ("first", "second"), [["a", ""], ["b", "n/a"]])
    assert table("", ("first",), [[""]]) == ""
