"""What is declared, locked, imported and documented about the package is the same everywhere."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import focus

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("focus", "analysis", "experiments")
#: Needed though nothing here imports them, with who does.
INDIRECT = {
    "accelerate": "transformers, for device_map",
    "tabulate": "pandas, for DataFrame.to_markdown",
}


def requirements(entries: list[str]) -> dict[str, Requirement]:
    """Requirements by canonical name, extras of this project resolved."""
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, entries):
        if canonicalize_name(requirement.name) == PROJECT["name"]:
            for extra in requirement.extras:
                found |= requirements(PROJECT["optional-dependencies"][extra])
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def locked() -> dict[str, str]:
    """Version by canonical name; fails on a line that is not an exact pin."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
            assert pin, f"not an exact pin: {line!r}"
            pins[canonicalize_name(pin[1])] = pin[2]
    return pins


PROVIDERS = packages_distributions()
RUNTIME = requirements(PROJECT["dependencies"])
DEVELOPMENT = requirements(PROJECT["optional-dependencies"]["dev"])


@cache
def imported(*folders: str) -> dict[str, str]:
    """Top-level modules from outside that the code of some folders imports, with one importer."""
    modules = {}
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    own = {*PACKAGES, *(path.stem for path in paths if path.parent == ROOT / "tests")}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in own:
                    modules[name] = str(path.relative_to(ROOT))
    return modules


def undeclared(modules: dict[str, str], declared: dict[str, Requirement]) -> list[str]:
    """`module (importer)` of each import that no declared requirement provides."""
    providers = PROVIDERS
    return [
        f"{module} ({importer})"
        for module, importer in modules.items()
        if not {canonicalize_name(name) for name in providers.get(module, [])} & set(declared)
    ]


def test_every_requirement_is_locked_inside_its_range():
    pins = locked()
    for name, requirement in (RUNTIME | DEVELOPMENT).items():
        assert name in pins, f"{name} is not in requirements.lock: run `make lock`"
        assert Version(pins[name]) in requirement.specifier, f"{name}: run `make lock`"


def test_the_lock_holds_no_build_for_one_kind_of_machine():
    for name, version in locked().items():
        assert Version(version).local is None
        assert not name.startswith(("nvidia-", "cuda-", "triton"))


def test_the_lock_serves_the_oldest_python_that_the_package_admits():
    """Debian 12 has Python 3.11.2; some packages that admit 3.11 ask for a later patch."""
    (oldest,) = SpecifierSet(PROJECT["requires-python"])
    pins = locked()
    for distribution in distributions():
        name = canonicalize_name(distribution.name)
        if pins.get(name) == distribution.version.partition("+")[0]:
            admitted = SpecifierSet(distribution.metadata["Requires-Python"] or "")
            assert Version(f"{oldest.version}.0") in admitted, name


def test_every_extra_is_part_of_dev():
    """So that one locked set serves everybody."""
    for extra in PROJECT["optional-dependencies"]:
        assert set(requirements(PROJECT["optional-dependencies"][extra])) <= set(DEVELOPMENT)


def test_what_the_packages_import_is_a_dependency():
    assert undeclared(imported(*PACKAGES), RUNTIME) == []


def test_what_is_imported_only_where_needed_is_in_the_extra_that_its_error_names():
    providers, found = PROVIDERS, set()
    for path in sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "optional_module":
                module = ast.literal_eval(call.args[0]).partition(".")[0]
                extra = next(ast.literal_eval(k.value) for k in call.keywords if k.arg == "extra")
                declared = requirements(PROJECT["optional-dependencies"][extra])
                assert {canonicalize_name(d) for d in providers[module]} & set(declared), path
                found.add(extra)
    assert found == {"longbench", "notebooks", "video", "vllm", "wandb"}


def needed(entries: dict[str, Requirement]) -> set[str]:
    """Names of requirements and of all that they require, as installed here."""
    found: set[tuple[str, str]] = set()
    todo = list(entries.values())
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key not in found:
                found.add(key)
                asked = map(Requirement, requires(key[0]) or [])
                todo += [r for r in asked if not r.marker or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def test_commands_install_no_tools():
    """`make demo` is for those who want to see it run; `make test` adds the rest."""
    tools = {"ruff", "mypy", "pytest", "ipython", "jupyterlab", "notebook", "wandb", "openai", "av"}
    assert not needed(RUNTIME) & tools
    assert needed(DEVELOPMENT) >= tools  # control


@pytest.mark.parametrize("uv", ["", "uv"])
def test_a_command_installs_the_package_and_a_test_everything(uv):
    def installed(target: str) -> list[str]:
        lines = make("--dry-run", "--always-make", f"UV={uv}", target).splitlines()
        return [line.split()[-1] for line in lines if "install --" in line]

    assert installed("demo") == ["."]
    assert installed("test") == [".", "'.[dev]'"]


def test_what_the_tests_import_is_a_dependency_of_dev():
    assert undeclared(imported("tests"), RUNTIME | DEVELOPMENT) == []


def test_every_dependency_is_imported():
    providers = PROVIDERS
    used = {canonicalize_name(d) for m in imported(*PACKAGES) for d in providers.get(m, [])}
    assert set(RUNTIME) - set(INDIRECT) <= used
    assert set(INDIRECT) <= set(RUNTIME) - used


def test_undeclared_imports_would_be_noticed():
    assert undeclared({"pytest": "a.py", "numpy": "b.py", "no_such_module": "c.py"}, RUNTIME) == [
        "pytest (a.py)",
        "no_such_module (c.py)",
    ]


def test_conda_users_get_the_same_set():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(
        Requirement(entry.replace("=", "=="))
        for entry in environment["dependencies"]
        if isinstance(entry, str) and entry.startswith("python=")
    )
    version = next(iter(python.specifier)).version
    assert Version(version) in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert f"Python {version}" in (ROOT / "requirements.lock").read_text()
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock", "-e ."]


def test_the_version_is_the_same_everywhere():
    assert PROJECT["version"] == focus.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == focus.__version__
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert focus.__version__ in headings


def test_the_citation_names_this_repository_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert "2508.13744" in paper["url"]
    assert all({"family-names", "given-names"} <= set(author) for author in paper["authors"])


def targets() -> list[str]:
    """Targets of the Makefile that a person would name."""
    text = (ROOT / "Makefile").read_text()
    return re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE)


def make(*arguments: str) -> str:
    """Output of a make command; the test is skipped where there is no make."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_alone_lists_every_target():
    listed = [line.split()[0] for line in make().splitlines()]
    assert listed == targets()
    assert all(len(line.split()) > 1 for line in make("help").splitlines())


def test_no_target_is_mistaken_for_a_file():
    """`test`, `env` and `notebooks` may exist as files or folders; the targets run all the same."""
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert phony[1].split() == targets()


def test_ci_is_a_script_that_can_be_run():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert set(re.findall(r"^run make ([a-z-]+)", path.read_text(), re.MULTILINE)) <= set(targets())
