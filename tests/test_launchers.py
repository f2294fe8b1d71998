"""Sweeps on other launchers: processes of this machine, and SLURM, as far as there is none here.

Two shards of one run are its jobs: what they merge must be what one process would have written.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from commands import run
from test_interruption import records_of, without_times

from experiments.config import explain_launcher

SETTINGS = ("model=tiny_internvl", "settings.max_new_tokens=1", "limit=4", "threads=1")
#: A cluster that runs the tasks of an array at once, on this machine.
CLUSTER = {
    "sbatch": """
        for script; do :; done
        for task in 0 1; do
            SLURM_JOB_ID=$((7 + task)) SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task \\
                SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 \\
                SLURM_JOB_NUM_NODES=1 sh "$script" > "$script.$task.log" 2>&1 &
        done
        echo "Submitted batch job 7"
    """,
    "srun": """
        while [ "${1#--}" != "$1" ]; do
            case "$1" in --output | --error) shift ;; esac
            shift
        done
        exec "$@"
    """,
    "sacct": "echo 'JobID|State|NodeList'",
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> bytes:
    """Records of a run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = run("experiments.evaluate", *SETTINGS, f"results={folder}", f"hydra.run.dir={folder}/h")
    assert done.returncode == 0, done.stderr
    return without_times(records_of(folder))


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> None:
    """Puts the commands of SLURM on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in CLUSTER.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch):
    arguments = ["--multirun", "hydra/launcher=slurm", "seed=0,1"]
    assert explain_launcher(arguments) is None

    def installed(name: str) -> str:
        if name == "hydra-core":
            return "1.3"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", installed)
    assert "[launchers]" in str(explain_launcher(arguments))
    assert explain_launcher(["hydra/launcher=basic"]) is None


def swept(folder: Path, launcher: str, *settings: str) -> tuple[bytes, str]:
    """Records of two shards, each a job of a sweep, and what was printed."""
    done = run(
        *("experiments.evaluate", "--multirun", *SETTINGS, "shard=0/2,1/2"),
        *(f"hydra/launcher={launcher}", *settings),
        *(f"results={folder}/results", f"hydra.sweep.dir={folder}/sweep"),
    )
    assert done.returncode == 0, done.stderr
    return without_times(records_of(folder / "results")), done.stdout


def test_jobs_in_two_processes_merge_to_what_one_would_have_written(tmp_path, alone, monkeypatch):
    # Forked from this one, where everything is imported; those of SLURM, below, import it.
    monkeypatch.setattr("joblib.externals.loky.backend.context._DEFAULT_START_METHOD", "fork")
    records, printed = swept(tmp_path, "processes")
    assert records == alone
    assert "n_jobs=2" in printed
    assert "launching 2 jobs" in printed


def test_jobs_of_a_slurm_array_merge_to_what_one_would_have_written(tmp_path, alone, cluster):
    settings = ("hydra.launcher.partition=big", "hydra.launcher.mem_gb=9")
    records, _ = swept(tmp_path, "slurm", *settings)
    assert records == alone
    script, *_ = (tmp_path / "sweep" / ".submitit").rglob("*.sh")  # a link to it as well
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script.read_text(), re.MULTILINE))
    assert asked["array"] == "0-1%2"
    assert (asked["partition"], asked["mem"], asked["gpus-per-node"]) == ("big", "9GB", "1")
    assert asked["time"] == "720"
