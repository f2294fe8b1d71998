"""Every command and example of the README, and of the pages behind it, works as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run

from experiments.config import compose_config
from experiments.report import with_tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Pages that are written by hand; the generated ones have tests of their own.
PAGES = {
    page: page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.name != "results.md"
}


def blocks(language: str) -> list[str]:
    text = "\n".join(PAGES.values())
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


COMMANDS = list(dict.fromkeys(
    line for block in blocks("bash") for line in block.splitlines() if line.strip()))  # fmt: skip
HUB = [line for line in COMMANDS if "qwen2_5_vl_7b" in line]
RUNNABLE = [line for line in COMMANDS if line.startswith("python ") and line not in HUB]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_readme_has_commands_and_examples():
    """Guards the tests below against finding nothing to test."""
    assert len(RUNNABLE) >= 5
    assert len(HUB) == 2
    assert len(blocks("python")) == 5


def test_the_readme_is_short_and_links_every_page():
    assert len(README.splitlines()) <= 140
    for page in PAGES:
        assert page.name == "README.md" or f"](docs/{page.name})" in README


def test_examples_run_in_a_fresh_interpreter():
    """One after the other, each with names of its own."""
    code = "import sys\nfor example in sys.argv[1:]: exec(example, {}); print('-- end of example')"
    finished = subprocess.run(
        [sys.executable, "-c", code, *blocks("python")], capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr
    *shown, rest = finished.stdout.split("-- end of example\n")
    assert len(shown) == len(blocks("python"))
    assert all(text.strip() for text in shown)
    assert not rest


@pytest.mark.parametrize("command", RUNNABLE)
def test_commands_run_on_a_few_questions(command, tmp_path):
    arguments = [word for word in shlex.split(command)[1:] if not word.startswith("limit=")]
    doctor, rescore = (f"experiments.{name}" in arguments for name in ("doctor", "rescore"))
    if "--cfg" not in arguments:
        arguments += ["size=2" if doctor else "limit=2"]
        arguments += [] if rescore else [f"results={tmp_path}"]
        if "experiment=tune_alpha" in arguments:
            arguments += [f"tune={tmp_path}/tuned", f"hydra.sweep.dir={tmp_path}"]
        arguments.append(
            f"hydra.sweep.dir={tmp_path}"
            if "--multirun" in arguments
            else f"hydra.run.dir={tmp_path}"
        )
    dash_m, module, *arguments = arguments
    assert dash_m == "-m"
    places = dict.fromkeys(("WANDB_DIR", "WANDB_DATA_DIR"), str(tmp_path))
    finished = run(module, *arguments, WANDB_MODE="offline", **places)
    assert finished.returncode == 0, finished.stderr
    if rescore:
        assert "combined anew" in finished.stdout
    elif "--cfg" not in arguments:
        made = "*/doctor.json" if doctor else "*/records.jsonl"
        assert list(tmp_path.glob("*.html" if "experiments.viewer" in module else made))


def test_a_hub_model_that_cannot_be_had_says_what_to_do():
    finished = run(*shlex.split(HUB[0])[2:])
    assert finished.returncode == 2
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in finished.stderr
    assert "hf download" in finished.stderr


def test_make_targets_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    ablations = (ROOT / "conf" / "experiment").glob("ablation_*.yaml")
    targets |= {path.stem.replace("_", "-") for path in ablations}
    for text in PAGES.values():
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_links_and_figures_exist():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), (page, target)
            if anchor:
                titles = re.findall(r"^##+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {title.lower().replace(" ", "-") for title in titles}, target


def test_what_routed_focus_wins_and_loses_is_what_the_results_say():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = re.search(
        r"^\| routed +\| (\d+) / (\d+) / (\d+) +\|[^|]+\| (\d+) / \d+ / (\d+) +\|",
        results,
        flags=re.MULTILINE,
    )
    won, tied, lost, ranked_won, ranked_lost = map(int, found.groups())
    sentences = " ".join(PAGES[ROOT / "docs" / "ablations.md"].split())
    assert (
        f"Over {won + tied + lost} cells (model, world, kind of question, number of images) it is "
        f"significantly better than the sum in {won} and worse in {lost}; as a ranking of the "
        f"candidates better in {ranked_won} and worse in {ranked_lost}."
    ) in sentences


def test_the_tables_are_what_the_committed_records_say():
    for text in PAGES.values():
        assert with_tables(text) == text
    # Control: another number in a table would be noticed.
    changed = re.sub(r"\| \d+ → \d+ ", "| 0 → 0 ", README, count=1)
    assert changed != README
    assert with_tables(changed) == README


def test_what_the_first_screen_quotes_is_in_its_table():
    screen, _, rest = README.partition("<!-- demo table -->")
    table, _, rest = rest.partition("<!-- end of demo table -->")
    quoted = re.findall(r"\d+ → \d+", screen + rest.partition("\n## ")[0])
    assert len(quoted) >= 6
    assert set(quoted) <= set(re.findall(r"\d+ → \d+", table))
    weight = compose_config("demo").decodings.focus.alpha
    assert f"The contrast weight, {weight}," in README
