"""`agvas-data instruct` as a whole, against a real endpoint on loopback."""

import json
from pathlib import Path

import pytest
from PIL import Image

from agvas_train.data.instruct.ledger import ASIDE, RECORDS
from agvas_train.data.instruct.prompt import PROMPT_HASH
from tests.train.instruct.small_sets import agvas_data, instruct, lines, make_small_set
from tools.instruct_proof import check
from tools.instruct_server import Body, Sent, VisionServer, answer_fields, completion, mark, pictures, tagged, well

GARBAGE = completion("I cannot see any pictures.")


def test_every_image_gets_its_own_record(root: Path):
    with VisionServer() as server:
        code, out, err = instruct(root, server, "--json", "--price-in", 2, "--price-out", 10)
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary["cost"] == pytest.approx(6 * (1000 * 2 + 100 * 10) / 1e6)
    expected = {"images": 6, "records": 6, "aside": 0, "failed": 0, "asks": 6, "remaining": 0, "tokens_in": 6000}
    assert expected.items() <= summary.items()
    assert check(root, root.parent / "out") == {"records": 6, "lost": 0, "twice": 0, "confused": 0}
    record = next(line for line in lines(root.parent / "out" / RECORDS) if line["image"] == "part/test/spot/001.png")
    assert list(record) == [
        *("dataset", "image", "mask", "category", "exists"),
        *("Expectation", "Observation", "Diagnosis", "Summary", "Explanation", "provenance"),
    ]
    assert record["mask"] == "part/ground_truth/spot/001_mask.png"
    origin = record["provenance"]
    assert origin["normal_image"] in ("part/test/good/000.png", "part/test/good/001.png")
    assert -1 <= origin["ssim"] <= 1
    assert 0 <= origin["distance"] <= 1
    rest = {"model": "eyes", "prompt": PROMPT_HASH, "asks": 1, "tokens_in": 1000, "tokens_out": 100}
    assert rest.items() <= origin.items()


def test_a_second_run_has_nothing_to_ask(root: Path):
    with VisionServer() as server:
        instruct(root, server, "--limit", 2)
        assert server.count == 2
        instruct(root, server)
        instruct(root, server)
        assert server.count == 6
    assert check(root, root.parent / "out") == {"records": 6, "lost": 0, "twice": 0, "confused": 0}


def test_another_set_of_the_same_name_is_refused_before_anything_is_asked(root: Path, tmp_path: Path):
    other = make_small_set(tmp_path / "elsewhere" / root.name, defects=5)
    out = ("--out", root.parent / "out")
    with VisionServer() as server:
        instruct(root, server, "--limit", 2)
        code, _, err = instruct(other, server, *out)
        assert server.count == 2
    assert (code, err.count("\n")) == (2, 1)
    assert f"sets.json: data set {root.name!r}: found {other}, expected {root};" in err


def test_a_wrong_answer_may_be_mended_once(root: Path):
    def behave(_: int, body: Body) -> Sent:
        return well(0, body) if len(body["messages"]) > 2 else tagged(answer_fields(body) | {"Diagnosis": "As masked."})

    with VisionServer(behave) as server:
        code, out, _ = instruct(root, server, "--limit", 1)
    assert code == 0
    assert "1 records, 0 set aside" in out
    assert "2 answers, 2000 tokens in, 200 out" in out
    system, user, answer, again = server.requests[1][1]["messages"]
    assert [system, user] == server.requests[0][1]["messages"]
    assert "As masked." in answer["content"]
    assert 'Diagnosis says "masked"' in again["content"]
    assert lines(root.parent / "out" / RECORDS)[0]["provenance"]["asks"] == 2


def test_what_is_wrong_twice_is_set_aside_and_not_asked_again(root: Path):
    first = None

    def behave(_: int, body: Body) -> Sent:
        nonlocal first
        first = first or mark(pictures(body)[0])
        return GARBAGE if mark(pictures(body)[0]) == first else well(0, body)

    with VisionServer(behave) as server:
        assert instruct(root, server, "--concurrency", 1)[0] == 0
        assert server.count == 7
        assert instruct(root, server)[0] == 0
        assert server.count == 7
    [aside] = lines(root.parent / "out" / ASIDE)
    assert aside["image"] == "part/test/good/000.png"
    assert "not one JSON block" in aside["reason"]
    assert aside["answers"] == ["I cannot see any pictures."] * 2
    assert aside["provenance"]["tokens_in"] == 2000
    assert len(lines(root.parent / "out" / RECORDS)) == 5


def test_an_answer_that_was_cut_off_is_called_so(root: Path):
    with VisionServer(lambda *_: completion("<RESPONSE_JSON>{", finish="length")) as server:
        instruct(root, server, "--limit", 1)
    assert "cut off at the most tokens" in lines(root.parent / "out" / ASIDE)[0]["reason"]


def test_an_image_without_an_answer_is_asked_about_again_by_the_next_run(root: Path):
    with VisionServer(lambda number, body: Sent(status=500) if number == 2 else well(0, body)) as server:
        code, out, err = instruct(root, server, "--concurrency", 1, "--retries", 0)
        assert code == 1
        assert "5 records, 0 set aside, 1 without an answer; 1 of 6 remain" in out
        assert err.splitlines()[-1].startswith("error: 1 images got no answer")
        assert instruct(root, server)[0] == 0
    assert check(root, root.parent / "out")["records"] == 6


def test_an_endpoint_that_is_down_is_one_line_and_costs_nothing(root: Path):
    with VisionServer(lambda number, body: Sent(status=500) if number < 3 else well(0, body)) as server:
        code, _, err = instruct(root, server, "--retries", 1, "--concurrency", 1)
    assert (code, err.count("\n")) == (1, 1)
    assert "stopped after 1 in a row without an answer" in err
    assert "HTTP 500, after 2 tries" in err
    assert [lines(root.parent / "out" / name) for name in (RECORDS, ASIDE)] == [[], []]


def test_an_endpoint_that_takes_nothing_sets_nothing_aside(tmp_path: Path):
    root = make_small_set(tmp_path / "set", defects=12)
    with VisionServer(lambda *_: Sent(b'{"error": "unknown model"}', 400)) as server:
        for options in ((), ("--limit", 3)):
            code, _, err = instruct(root, server, "--concurrency", 1, *options)
            assert (code, err.count("\n")) == (1, 1)
            assert "HTTP 400 (unknown model)" in err
    assert lines(root.parent / "out" / ASIDE) == []


def test_a_request_that_is_not_taken_among_others_is_set_aside(root: Path):
    with VisionServer(lambda number, body: Sent(b"", 400) if number == 2 else well(0, body)) as server:
        assert instruct(root, server, "--concurrency", 1)[0] == 0
    assert [line["reason"] for line in lines(root.parent / "out" / ASIDE)] == ["HTTP 400"]


def test_an_answer_is_paid_for_also_where_the_second_ask_gets_none(root: Path):
    def behave(_: int, body: Body) -> Sent:
        return GARBAGE if len(body["messages"]) == 2 else Sent(status=500)

    with VisionServer(behave) as server:
        code, out, err = instruct(root, server, "--concurrency", 1, "--retries", 0, "--json", "--price-in", 2)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: 6 images got no answer")  # it answered, so the run goes on
    summary = json.loads(out)
    assert (summary["failed"], summary["asks"], summary["tokens_in"], summary["tokens_out"]) == (6, 6, 6000, 600)
    assert summary["cost"] == pytest.approx(6000 * 2 / 1e6)
    assert [lines(root.parent / "out" / name) for name in (RECORDS, ASIDE)] == [[], []]


def test_an_answer_is_paid_for_also_where_the_second_ask_is_not_taken(root: Path):
    def behave(_: int, body: Body) -> Sent:
        return GARBAGE if len(body["messages"]) == 2 else Sent(b"", 400)

    with VisionServer(behave) as server:
        code, out, _ = instruct(root, server, "--limit", 2, "--json")
    assert (code, json.loads(out)["tokens_in"]) == (0, 2000)
    for aside in lines(root.parent / "out" / ASIDE):
        assert aside["reason"] == "HTTP 400"
        assert aside["answers"] == ["I cannot see any pictures."]
        assert aside["provenance"]["tokens_in"] == 1000


def test_broken_files_are_set_aside_unasked(root: Path):
    (root / "part/test/spot/000.png").write_bytes(b"no image")
    Image.new("L", (48, 48)).save(root / "part/ground_truth/spot/001_mask.png")
    with VisionServer() as server:
        assert instruct(root, server)[0] == 0
    assert server.count == 4
    reasons = {line["image"][-7:]: line["reason"] for line in lines(root.parent / "out" / ASIDE)}
    assert "not an image file" in reasons["000.png"]
    assert "is empty" in reasons["001.png"]


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EYES_KEY", "sk-very-secret")
    with VisionServer() as server:
        said = instruct(root, server, "--api-key-env", "EYES_KEY")
    assert {headers["authorization"] for headers, _ in server.requests} == {"Bearer sk-very-secret"}
    written = "".join(file.read_text() for file in (root.parent / "out").iterdir())
    assert "very-secret" not in written + said[1] + said[2]


def test_a_dry_run_writes_what_would_be_sent_and_asks_nobody(root: Path, tmp_path: Path):
    out = tmp_path / "look"
    code, said, _ = agvas_data("instruct", root, "--out", out, "--dry-run", "--limit", 3)
    assert (code, said) == (0, f"{out}: 3 images as they are sent\n")
    written = {file.name for file in (out / "dry-run").iterdir()}
    assert written == {f"{number:04d}{end}" for number in (1, 2, 3) for end in (".json", "_A.jpg", "_B.jpg", "_C.jpg")}
    shown = json.loads((out / "dry-run/0003.json").read_text())
    assert shown["image"] == "part/test/spot/000.png"
    assert shown["messages"][1]["content"][1]["image_url"]["url"] == "0003_A.jpg"
    assert Image.open(out / "dry-run/0003_B.jpg").size == (48, 48)


def test_the_synthetic_stream_annotates_itself(tmp_path: Path):
    root, out = tmp_path / "set", tmp_path / "out"
    assert agvas_data("synth", root, "--count", 40, "--seed", 2)[0] == 0
    code, said, _ = agvas_data("instruct", root, "--out", out, "--annotator", "synthetic", "--json")
    summary = json.loads(said)
    assert code == 0
    assert summary["records"] == summary["images"] > 20
    assert summary["records"] + summary["left_out"] == 40
    captions = {line["image"]: line for line in lines(root / "captions.jsonl")}
    for record in lines(out / RECORDS):
        caption = captions[record["image"]]
        assert all(record[name] == caption[name] for name in ("mask", "exists", "Summary", "Explanation"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --endpoint and --model"),
        (("--endpoint", "http://h/v1"), "give --endpoint and --model"),
        (("--endpoint", "h:1", "--model", "m"), "expected http://HOST"),
        (("--endpoint", "http://h/v1", "--model", "m", "--api-key-env", "NO_SUCH_NAME"), "NO_SUCH_NAME is not set"),
        (("--annotator", "synthetic"), "needs a folder made by agvas-data synth"),
        (("--annotator", "synthetic", "--model", "m"), "asks nobody"),
        (("--shard", "3/2"), "expected I/N"),
        (("--shard", "half"), "expected I/N"),
    ],
)
def test_mistakes_cost_one_line(root: Path, options: tuple[str, ...], said: str):
    code, out, err = agvas_data("instruct", root, "--out", root.parent / "out", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (root.parent / "out").exists()
