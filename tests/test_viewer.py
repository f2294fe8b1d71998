"""One page of a run: what it holds, how it is filtered, and that it needs nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import run
from PIL import Image

from analysis.viewer import TAGS, chosen, data_url, page, page_data, tags
from experiments.viewer import answered_run, nodes
from focus.benchmarks import Example
from focus.errors import InvalidValueError
from focus.records import read_records

ROOT = Path(__file__).resolve().parent.parent
NASTY = "</script><img src='https://example.org/x.png' onerror=alert(1)> & \u2028 é"
RED, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
EXAMPLE = Example(
    id="q", images=(RED, BLUE), question="<image> <image> the colour of the first?",
    answer="red", choices=("red", "blue", "green"), targets=(0,), distractors=("blue",),
)  # fmt: skip


def record(decoding: str, text: str, **fields) -> dict:
    return {
        "model": "m", "benchmark": "b", "id": "q", "decoding": decoding, "text": text,
        "parsed": text, "correct": text == "red", "leaked": text == "blue",
        "row_tops": {"image 1+2": text}, "row_logprobs": {"image 1+2": [-1.0, -0.5, None]},
        **fields,
    }  # fmt: skip


def inside(html: str) -> dict:
    """The data of a page, read as a browser finds it."""
    found = []

    class Reader(HTMLParser):
        wanted = False

        def handle_starttag(self, tag, attributes):
            assert tag != "img"  # images are made by the script
            self.wanted = ("id", "data") in attributes

        def handle_data(self, data):
            found.extend([data] if self.wanted else [])
            self.wanted = False

    Reader().feed(html)
    (text,) = found
    return json.loads(text)


@pytest.mark.parametrize(
    ("plain", "focus", "expected"),
    [
        ("red", "red", {"right"}),
        ("blue", "blue", {"leaked", "leaks after"}),
        ("blue", "red", {"leaked", "changed", "put right"}),
        ("green", "red", {"changed", "put right"}),
        ("red", "blue", {"right", "changed", "spoilt", "leaks after"}),
        ("green", "unknown", {"changed"}),
        ("red", None, {"right"}),
    ],
)
def test_what_an_answer_is_found_by(plain, focus, expected):
    other = None if focus is None else record("focus", focus)
    assert set(tags(record("plain", plain), other)) == expected
    assert expected <= set(TAGS)


def test_a_question_with_its_rows():
    rows = {"reference": "unknown", "image 1": "red", "image 2": "blue"}
    likely = {"reference": [-3, -3, -3], "image 1": [-0.1, -9, -9], "image 2": [-9, 0, -9]}
    focus = record(
        "focus", "red", row_tops=rows, row_logprobs=likely, choice_logprobs=[-0.2, -2, -4]
    )
    lens = [{"tokens": "last token", "place": 0, "right": 0.25, "leaked": 0.5, "leads": "leaked"}]
    questions = [(EXAMPLE, [record("plain", "blue"), focus])]
    data = inside(page(page_data(questions, title="t", lenses={("m", "b", "q"): lens})))
    assert len(data["images"]) == 2
    with Image.open(io.BytesIO(base64.b64decode(data["images"][0].split(",")[1]))) as shown:
        assert shown.getpixel((3, 3)) == (255, 0, 0)
    (question,) = data["questions"]
    assert question["images"] == [0, 1]
    assert question["asked"] == [0]
    assert question["question"] == ["", " ", " the colour of the first?"]
    assert [c["kind"] for c in question["choices"]] == ["right", "leaked", "other"]
    (answer,) = question["answers"]
    assert [(s["by"], s["text"], s["kind"]) for s in answer["said"]] == [
        ("plain", "blue", "leaked"), ("focus", "red", "right"),
    ]  # fmt: skip
    assert [(r["label"], r["shows"], r["kind"]) for r in answer["rows"]] == [
        ("plain", [True, True], "leaked"),
        ("image 1", [True, False], "right"),
        ("image 2", [False, True], "leaked"),
        ("reference", [False, False], "abstains"),
        ("focus", None, "right"),
    ]
    assert answer["rows"][0]["p"] == [0.368, 0.607, 0]
    assert answer["lens"] == [{"place": 0, "right": 0.25, "leaked": 0.5}]


def test_nothing_in_a_question_becomes_markup():
    example = Example(
        id=NASTY, images=(RED,), question=f"<image>{NASTY}", answer=NASTY, choices=(NASTY, "no"),
    )  # fmt: skip
    html = page(page_data([(example, [record("plain", NASTY, id=NASTY)])], title=NASTY))
    assert "onerror" in html
    assert "<img" not in html
    assert html.count("</script>") == 2  # the page's own
    data = inside(html)
    assert data["title"] == data["questions"][0]["answer"] == NASTY
    assert "innerHTML" not in html


def test_the_page_asks_nothing_of_a_network():
    html = page(page_data([(EXAMPLE, [record("plain", "red")])], title="t"))
    assert "default-src 'none'" in html
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(|<link|src=|fetch\(", html)


def test_small_images_stay_as_they_are_and_large_ones_do_not():
    photo = Image.effect_noise((900, 600), 80)
    assert len(data_url(photo, 160)) < 20_000
    assert data_url(photo, 160).startswith("data:image/jpeg")
    assert data_url(RED, 160).startswith("data:image/png")


def test_as_many_questions_of_each_benchmark():
    def of(benchmark: str, number: int, **fields) -> list[dict]:
        return [
            record("plain", "red", benchmark=benchmark, id=f"q{k}", **fields) for k in range(number)
        ]

    records = [*of("a", 9), *of("b", 2), *of("c", 9), *of("c", 9, order=1), *of("d", 1, error="x")]
    found = [(own[0]["benchmark"], len(own)) for own in chosen(records, 10)]
    assert found == [("a", 1)] * 4 + [("b", 1)] * 2 + [("c", 1)] * 4
    assert chosen([record("focus", "red")], 5) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict:
    """The page of the committed demo."""
    folder = tmp_path_factory.mktemp("viewer")
    finished = run(
        "experiments.viewer", "limit=30", "threads=1", f"results={folder}",
        f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return inside((folder / "demo.html").read_text(encoding="utf-8"))


def test_the_demo_counted_by_filter(demo):
    shown = {question["id"] for question in demo["questions"]}
    assert len(shown) == 30
    records = [r for r in read_records(ROOT / "docs/demo/records.jsonl.gz") if r["id"] in shown]
    plain = {(r["model"], r["id"]): r for r in records if r["decoding"] == "plain"}
    pairs = [
        (plain[r["model"], r["id"]], r) for r in records if r["decoding"] == "focus"
    ]  # fmt: skip
    expected = {
        "leaked": sum(p["leaked"] for p, _ in pairs),
        "right": sum(p["correct"] for p, _ in pairs),
        "changed": sum(p["text"] != f["text"] for p, f in pairs),
        "put right": sum(f["correct"] > p["correct"] for p, f in pairs),
        "spoilt": sum(f["correct"] < p["correct"] for p, f in pairs),
        "leaks after": sum(f["leaked"] for _, f in pairs),
    }
    answers = [answer for question in demo["questions"] for answer in question["answers"]]
    assert len(answers) == 90
    assert {tag: sum(tag in a["tags"] for a in answers) for tag in TAGS} == expected
    assert min(expected.values()) > 0


def test_the_last_layer_says_what_plain_decoding_does(demo):
    for question in demo["questions"]:
        for answer in question["answers"]:
            likely = answer["rows"][0]["p"]
            right = [c["kind"] for c in question["choices"]].index("right")
            assert answer["lens"][-1]["right"] == pytest.approx(
                likely[right] / sum(likely), abs=0.02
            )


def test_a_run_of_evaluate(tmp_path):
    finished = run(
        "experiments.evaluate", "model=tiny_internvl", "settings.max_new_tokens=2", "limit=3",
        "threads=1", f"results={tmp_path}", f"hydra.run.dir={tmp_path}/hydra",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    (folder,) = tmp_path.glob("scenes_indexed-*")
    settings, records = answered_run(folder)
    assert [node["_target_"] for node in nodes(settings, "model")]
    assert len(chosen(records, 10)) == 3
    assert {r["decoding"] for r in chosen(records, 10)[0]} == {"plain", "focus"}
    path = folder / "records.jsonl"
    path.write_text("".join(line for line in path.open() if '"decoding": "focus"' in line))
    with pytest.raises(InvalidValueError, match="plain decoding"):
        answered_run(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=r"run\.json"):
        answered_run(tmp_path)
