"""What `make bench` counts and reports, at a small size; never how long anything takes."""

from __future__ import annotations

import json

import commands
import pandas as pd
import pytest

from analysis.tables import bench_markdown, prefill_markdown, throughput_markdown
from experiments.bench import PUBLISHED, renewed
from experiments.benching import clock, inside
from focus.decoding import GenerationSettings, Plain
from focus.models.tiny import build_tiny

SMALL = (
    *("num_images=[3]", "image_size=32", "new_tokens=2", "repeats=1", "hidden=64", "layers=1"),
    *("vision_hidden=32", "vision_layers=1", "logger=none", "throughput.questions=4"),
    *("throughput.alone=2", "prefill.num_images=[2]", "prefill.tokens=[4]", "prefill.words=[8]"),
    "prefill.repeats=1",
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of a small run, and what the terminal showed."""
    folder = tmp_path_factory.mktemp("bench")
    done = commands.run("experiments.bench", *SMALL, f"results={folder}",
                        f"hydra.run.dir={folder}/hydra")  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("bench", "prefill"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "bench.json").read_text()), done.stdout


def test_schemes_are_counted_as_they_are_defined(record):
    """N images are encoded by plain decoding, N(N+1) as published, 2N where a sample shares its
    noise and N where a run does; what is shared costs fewer operations."""
    rows, n = {row["scheme"]: row for row in record[0]["rows"]}, 3
    per_sample = "noise per sample, prefixes shared (default)"
    assert {scheme: row["encoded"] for scheme, row in rows.items()} == {
        "plain decoding": n,
        PUBLISHED: n * (n + 1),
        "noise per branch, prefixes shared": n + n * n,
        per_sample: 2 * n,
        "noise per run, prefixes shared": n,
        "composed (ours), noise per run": n,
        "masked (ours), no noise": n,
    }
    assert rows[PUBLISHED]["published_over_this"] == 1
    order = (PUBLISHED, per_sample, "noise per run, prefixes shared", "plain decoding")
    costs = [rows[scheme]["flops"] for scheme in order]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)


def test_throughput_stands_beside_what_bounds_it(record):
    rows = record[0]["throughput"]
    assert len(rows) == 6
    for row in rows:
        assert 0 < row["batched_per_second"] < row["model_per_second"]
        assert row["faster"] == pytest.approx(row["batched_per_second"] / row["alone_per_second"])


def test_every_part_is_a_table_in_the_terminal_and_in_a_document(record):
    found, shown = record
    for name in ("rows", "prefill", "throughput", "sharing"):
        assert found[name]
        assert found[name][0]["scheme"].split()[0] in shown
    for table, name in ((bench_markdown, "rows"), (prefill_markdown, "prefill"),
                        (throughput_markdown, "throughput")):  # fmt: skip
        assert table(found[name]).count("\n") >= 2
    assert found["server"] == []
    assert pd.DataFrame(found["sharing"])["faster"].iloc[0] == 1


def test_a_part_measured_anew_leaves_the_others_as_they_were(record, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(record[0]))
    new = renewed(path, {"sharing": [{"scheme": "new"}]}, {"commit": "later"})
    assert json.loads(path.read_text()) == new
    assert new["sharing"] == [{"scheme": "new"}]
    assert new["measured"]["sharing"] == {"commit": "later"}
    assert {**new, "sharing": 0, "measured": 0} == {**record[0], "sharing": 0, "measured": 0}
    assert new["measured"]["rows"] == record[0]["measured"]["rows"]
    done = commands.run("experiments.bench", *SMALL, "parts=[speed]", f"results={tmp_path}")
    assert done.returncode != 0
    assert "speed" in done.stderr
    assert "throughput" in done.stderr


def test_time_inside_the_model_leaves_no_trace(ask):
    qwen_vlm = build_tiny("qwen2_5_vl", seed=0)
    request, settings = ask(2), GenerationSettings(max_new_tokens=2)
    parts = (qwen_vlm.model.model.visual, qwen_vlm.model.get_decoder())
    with inside(qwen_vlm) as seconds:
        whole = clock(lambda: Plain().decode(qwen_vlm, request, settings))
    assert min(seconds) > 0
    assert sum(seconds) < whole
    assert len(seconds) == 1 + 2 + 2  # the images, and two passes with a head each
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
