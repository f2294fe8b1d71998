"""From Hydra's configuration to objects, with errors that say what is accepted."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from focus.errors import FocusError, InvalidValueError, UnknownNameError
from focus.records import Shard

CONF = Path(__file__).resolve().parent.parent / "conf"


def build(config: DictConfig) -> Any:
    """Instantiates a node after checking its keys.

    Raises:
        UnknownNameError: a key that the class behind `_target_` does not have; lists those it has.
        InvalidValueError: a value that it refuses, or that has the wrong type.
    """
    _check_keys(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, FocusError):
            raise cause from None
        if isinstance(cause, TypeError):
            target = config.get("_target_")
            raise InvalidValueError(
                str(target), dict(config), f"of fitting types ({cause})"
            ) from error
        raise


def build_settings(config: DictConfig, max_new_tokens: int) -> Any:
    """Generation settings; where they name no length, it is that of the benchmark."""
    if config.max_new_tokens is None:
        config.max_new_tokens = max_new_tokens
    return build(config)


def check_run(config: DictConfig) -> None:
    """Checks the settings that commands share and no class does, before anything loads.

    Settings that a command does not have are left out.

    Raises:
        InvalidValueError: a number out of range, no such shard, or a results folder that cannot be
            written to.
    """
    numbers = ("limit", "threads", "orders", "noise_seeds")
    check_positive(config, *(name for name in numbers if name in config))
    for name in ("skip_unavailable", "retry_failed"):
        if not isinstance(config.get(name, False), bool):
            raise InvalidValueError(name, config[name], "true or false")
    Shard.parse(config.get("shard"))
    if "results" in config:
        check_results(config.results)


def check_positive(config: DictConfig, *names: str) -> None:
    """Raises `InvalidValueError` unless these settings are positive integers, or null."""
    for name in names:
        value, optional = config[name], name in ("limit", "threads")
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (whole or (value is None and optional)):
            accepted = "a positive integer" + (", or null" if optional else "")
            raise InvalidValueError(name, value, accepted)


def check_results(path: str) -> None:
    """Raises `InvalidValueError` unless results can be written to this folder."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        accepted = f"a folder that can be made and written to ({error.strerror})"
        raise InvalidValueError("results", path, accepted) from error


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain containers, for records and loggers."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Turns a function of the configuration into a command with Hydra's command line.

    Settings that do not exist are reported with those that do, and every `FocusError` as one line
    instead of a traceback (set HYDRA_FULL_ERROR=1 for the traceback).
    """

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        def guarded(config: DictConfig) -> None:
            try:
                check_run(config)
                task(config)
            except FocusError as error:
                several = HydraConfig.get().mode == RunMode.MULTIRUN
                if several or os.environ.get("HYDRA_FULL_ERROR"):
                    raise  # to exit here would take the other jobs of a grid along
                _fail(f"{type(error).__name__}: {error}")

        decorated = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
        return decorated(guarded)

    return decorate


def check_command_line(config_name: str, module: str) -> None:
    """Answers a command line that cannot be run before the seconds that imports take.

    To be called by a command between its first imports and those of PyTorch and the like; it does
    nothing where the module is imported and not run.

    Args:
        config_name: the command's configuration.
        module: its ``__name__``.
    """
    if module != "__main__":
        return
    arguments = sys.argv[1:]
    name = Path(sys.argv[0]).stem
    problem = (
        explain_experiment(name, arguments)
        or explain_launcher(arguments)
        or explain_overrides(config_name, arguments)
    )
    if problem:
        _fail(problem)
    if any(argument in HYDRA_ANSWERS for argument in arguments):
        entry_point(config_name)(lambda _: None)()
        sys.exit(0)
    problem = explain_values(config_name, arguments)
    if problem:
        _fail(problem)
    print(f"{name}: starting", file=sys.stderr, flush=True)


#: Arguments that Hydra answers itself, with output that may be read by a program.
HYDRA_ANSWERS = ("--cfg", "-c", "--help", "-h", "--hydra-help", "--info", "-i", "--version")


def explain_experiment(command: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with an experiment that another command runs; None where nothing is.

    The first line of every experiment file is its command.
    """
    known = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") != "experiment":
            continue
        patterns = re.split(r"[,\s]+", re.sub(r"\bglob\(|exclude=.*|[\[\]()'\"]", " ", value))
        asked = [name for name in known if any(fnmatchcase(name, p) for p in patterns if p)]
        for option in asked:
            text = (CONF / "experiment" / f"{option}.yaml").read_text(encoding="utf-8")
            written = re.search(r"python -m experiments\.(\w+)", text)
            if written and written[1] != command:
                return (
                    f"experiment={option} is not one of experiments.{command}; run it with "
                    f"python -m experiments.{written[1]} experiment={option}"
                )
    return None


def explain_launcher(arguments: Sequence[str]) -> str | None:
    """What is missing for a launcher of conf/hydra/launcher; None where nothing is."""
    packages = {"processes": "hydra-joblib-launcher", "slurm": "hydra-submitit-launcher"}
    for argument in arguments:
        package = packages.get(argument.removeprefix("hydra/launcher="))
        try:
            metadata.version(package or "hydra-core")
        except metadata.PackageNotFoundError:
            return (
                f"MissingExtraError: {argument} needs {package}; install it with "
                "pip install -e '.[launchers]' in the checkout"
            )
    return None


def explain_values(config_name: str, arguments: Sequence[str]) -> str | None:
    """What `check_run` says to a command line; None where it accepts it, or each job of a grid is
    to be asked by itself."""
    overrides = [a for a in arguments if "=" in a and not a.startswith(("-", "hydra"))]
    try:
        check_run(compose_config(config_name, overrides))
    except InvalidValueError as error:
        return f"{type(error).__name__}: {error}"
    except (HydraException, OmegaConfBaseException):
        pass
    return None


def explain_overrides(config_name: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with the settings on a command line, or None where nothing is.

    Hydra says that a key does not exist, but not which ones do.
    """
    overrides = [a for a in arguments if "=" in a and not a.startswith(("-", "hydra"))]
    if not overrides:
        return None
    groups = [a for a in overrides if _is_group(a)]
    values = [a for a in overrides if not _is_group(a) and not a.startswith(("+", "~"))]
    if any("," in a or "glob(" in a for a in groups):
        return None  # a sweep over groups: each job checks its own settings
    try:
        config = compose_config(config_name, groups)
    except (HydraException, OmegaConfBaseException) as error:
        return str(error)  # names the options of the group
    for override in values:
        key = override.split("=", 1)[0]
        parent_key, _, leaf = key.rpartition(".")
        parent = OmegaConf.select(config, parent_key) if parent_key else config
        # `in parent` is false for a value that is still missing (???)
        if isinstance(parent, DictConfig) and leaf not in set(parent.keys()):
            known = [str(name) for name in parent if name != "_target_"]
            where = parent_key or "the top level"
            return str(UnknownNameError(f"setting of {where}", leaf, known))
    return None


def compose_config(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Composes a configuration outside of a Hydra job."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(config_name, overrides=list(overrides))


def _is_group(override: str) -> bool:
    key = override.split("=", 1)[0].lstrip("+~").split("@")[0]
    return (CONF / key).is_dir()


def _check_keys(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _check_keys(item)
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        target = get_object(node["_target_"])
        if dataclasses.is_dataclass(target):
            known = [field.name for field in dataclasses.fields(target) if field.init]
        else:
            known = list(inspect.signature(target).parameters)
        for key in node:
            if not str(key).startswith("_") and key not in known:
                raise UnknownNameError(f"setting of {node['_target_']}", key, known)
    for value in node.values():
        _check_keys(value)


def _fail(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)
    sys.exit(2)
