"""`make report` writes every table, page and figure, and on what is committed changes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image
from test_ablation_report import gaining_and_losing, pairs_records
from test_benchmarks_end_to_end import call

from analysis.ablation_views import VIEWS
from analysis.ablations import IMAGE_SCORE, of_kind
from analysis.claims import CLAIMS
from analysis.comparisons import selected
from analysis.figures import save_figure
from analysis.results import Found, Page
from analysis.zoo import MODEL, focus_points, models_frame, read_models
from experiments import notebooks, report
from focus.records import write_records

ROOT = report.ROOT
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def test_the_command_writes_results_details_and_figures(tmp_path, capsys):
    """Two small experiments; the other twelve were not run."""
    records, details = tmp_path / "docs" / "ablations", tmp_path / "details"
    write_records(records / "images.jsonl.gz", gaining_and_losing())
    pairs = [{**r, "world": "clips", "num_images": 2} for r in pairs_records()]
    write_records(records / "domains.jsonl.gz", pairs)
    settings = (f"root={tmp_path}", f"details={details}", "workers=1", "parts=[tables,results]")
    call(report.main, *settings, folder=tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "no records yet of strategies, schemes, benchmarks" in printed
    results = (tmp_path / "docs" / "results.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", results):
        assert (tmp_path / "docs" / target).read_bytes().startswith(b"\x89PNG")
        pdf = (tmp_path / "figures" / target).with_suffix(".pdf")
        assert pdf.read_bytes().startswith(b"%PDF")
    page = (details / "ablations" / "images.md").read_text()
    assert "by number of images: holds on 1 of 2 models" in page
    for target in re.findall(r"\]\(([^)]+\.png)\)", page):
        assert (details / "ablations" / target).exists()
    cells = pd.read_csv(details / "ablations" / "images.csv")
    focus = cells[(cells["rule"] == "sum") & (cells["metric"] == "accuracy")]
    assert sorted(focus["delta"]) == [-0.5, 0.5]
    assert set(pd.read_csv(details / "ablations" / "domains.csv")["metric"]) >= {IMAGE_SCORE}
    assert sorted(p.name for p in records.iterdir()) == ["domains.jsonl.gz", "images.jsonl.gz"]
    with pytest.raises(SystemExit):
        call(report.main, "parts=[result]", folder=tmp_path)
    assert "did you mean 'results'" in capsys.readouterr().err


def test_the_results_fit_a_screen_or_five_and_cover_every_experiment():
    assert len((DOCS / "results.md").read_text(encoding="utf-8").splitlines()) <= 300
    assert set(report.experiments_of(ROOT)) == set(VIEWS)


def test_docs_hold_what_pages_show_and_no_more():
    """Figures that no page shows, and more than ten megabytes, are for `results`."""
    files = [path for path in DOCS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10e6
    shown = set()
    for page in PAGES:
        for target in re.findall(r"[(\"]([^()\"\s]+\.png)[)\"]", page.read_text(encoding="utf-8")):
            shown |= {(base / target).resolve() for base in (page.parent, ROOT)}
    assert {path for path in files if path.suffix == ".png"} <= shown
    # A figure is as wide as a page shows it, and indexed.
    for path in files:
        if path.suffix == ".png" and path.stem not in ("first", "second"):
            with Image.open(path) as image:
                assert image.mode == "P", path
                assert image.width <= 1300, path


@pytest.mark.parametrize("width", [4, 16])
def test_a_figure_is_saved_as_wide_as_it_is_shown_and_indexed(tmp_path, width):
    figure, axes = plt.subplots(figsize=(width, 2))
    axes.plot([0, 1], color=(0.8, 0.1, 0.2))
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.mode == "P"
        assert 400 <= image.width <= 1200
        away = np.abs(np.array(image.convert("RGB")).astype(int) - [204, 26, 51]).sum(axis=-1)
        assert away.min() < 30  # a thin line keeps its colour
    assert not plt.fignum_exists(figure.number)


def test_a_notebook_shows_what_its_code_does_and_else_stays_as_it_is(tmp_path):
    stale = nbformat.v4.new_output("stream", name="stdout", text="5\n")
    cell = nbformat.v4.new_code_cell("print(1 + 1)", outputs=[stale], execution_count=1)
    cell.metadata["execution"] = {"shell.execute_reply": "2026-12-01T16:58:57.165003Z"}
    path, broken = (tmp_path / "notebooks" / f"{name}.ipynb" for name in ("counts", "broken"))
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    call(report.main, f"root={tmp_path}", "parts=[notebooks]", "workers=1", folder=tmp_path)
    (renewed,) = nbformat.read(path, 4).cells
    assert [output["text"] for output in renewed.outputs] == ["2\n"]
    assert "execution" not in renewed.metadata
    before = path.read_bytes()
    notebooks.renew_notebook(path)
    assert path.read_bytes() == before
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), broken)
    before = broken.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.renew_notebook(broken)
    assert broken.read_bytes() == before


def test_notebooks_keep_no_times():
    """Or each renewal would change all of them."""
    paths = notebooks.notebooks_of(ROOT)
    assert len(paths) >= 10
    for path in paths:
        assert "execute_reply" not in path.read_text(encoding="utf-8"), path


def test_renewing_an_experiment_adds_less_than_a_megabyte():
    """Its records, and the figures that change with them: at most all of docs/results.md."""
    records = max(path.stat().st_size for path in (DOCS / "ablations").iterdir())
    assert records <= 0.95e6
    assert sum(p.stat().st_size for p in (DOCS / report.FOLDER).iterdir()) <= 1e6


def test_the_cards_of_the_models_are_those_of_their_records(tmp_path):
    copy = copied(tmp_path)
    report.renew_cards(copy)
    assert_equal(copy, cards())


def test_the_page_of_the_models_has_the_numbers_of_their_records():
    """Of one model; all take half a minute."""
    model = read_models(ROOT / report.WEIGHTS)[0]
    points = focus_points(models_frame([model]), MODEL)
    page = (DOCS / "zoo" / "README.md").read_text(encoding="utf-8").replace("**", "")
    lines = [line for line in page.splitlines() if line.startswith(f"| {model['name']} | ")]
    for row in points.to_dict("records"):
        (line,) = [line for line in lines if f" | {row['world']} | " in line]
        assert f"{row['plain']:.3f} -> {row['focus']:.3f}" in line
        for name in ("delta", "text_delta", "pairs_delta", "pairs_text_delta"):
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            assert f" {row[name]:+.3f} [{low:+.3f}, {high:+.3f}] " in line
    assert len(points) == 4


@pytest.fixture(scope="module")
def small() -> dict[str, Found]:
    """What the three smallest experiments say; the others take minutes."""
    return {name: report.experiment(ROOT, name) for name in ("seeds", "targets", "collective")}


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^(##+ .*)$", page, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_results_are_those_of_the_records(small):
    committed = sections((DOCS / "results.md").read_text(encoding="utf-8"))
    begin = ("## 4.", "## 8.", "## 11.", "### Questions that")
    headings = [title for title in committed if title.startswith(begin)]
    assert len(headings) == 4
    renewed = sections(Page(small).text())
    assert [renewed[title] for title in headings] == [committed[title] for title in headings]
    # Control: one model that answers otherwise is another number on the page.
    records, kinds = report.read_experiment(ROOT, "targets")
    asked = CLAIMS[7].tests[0].first
    line = next(r for r in of_kind(records, "answers") if selected(r, asked))
    line["marks"] = line["marks"].replace("+", "-")
    changed = sections(Page({"targets": Found.of("targets", records, kinds)}).text())
    assert changed[headings[1]] != committed[headings[1]]


@pytest.mark.slow
def test_everything_that_is_committed_is_what_the_command_writes(tmp_path):
    copy = copied(tmp_path)
    call(report.main, f"root={copy}", "details=null", folder=tmp_path)
    files = [
        path.relative_to(ROOT) for path in (*DOCS.rglob("*"), ROOT / "README.md") if path.is_file()
    ]
    files += [path.relative_to(copy) for path in notebooks.notebooks_of(copy)]
    assert_equal(copy, [*files, *cards()])
    assert {p.relative_to(copy) for p in (copy / "docs").rglob("*") if p.is_file()} <= {*files}


def cards() -> list[Path]:
    return [path.relative_to(ROOT) for path in (ROOT / report.WEIGHTS).glob("*/README.md")]


def copied(folder: Path) -> Path:
    """The repository without its code and weights, in a folder."""
    copy = folder / "copy"
    shutil.copytree(DOCS, copy / "docs")
    shutil.copy(ROOT / "README.md", copy)
    (copy / "focus").mkdir()
    shutil.copy(ROOT / "focus" / "forecast.json", copy / "focus")
    models = shutil.ignore_patterns("explore*", "knockout_with*", ".*")  # those that run one
    shutil.copytree(ROOT / "notebooks", copy / "notebooks", ignore=models)
    ignored = shutil.ignore_patterns("*.safetensors", "tokenizer*", "*config*")
    shutil.copytree(ROOT / report.WEIGHTS, copy / report.WEIGHTS, ignore=ignored)
    return copy


def assert_equal(copy: Path, names: list[Path]) -> None:
    changed = [name for name in names if (copy / name).read_bytes() != (ROOT / name).read_bytes()]
    assert not changed
