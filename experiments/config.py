"""From Hydra's configuration to objects, with errors that say what is accepted."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
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
                task(config)
            except FocusError as error:
                several = HydraConfig.get().mode == RunMode.MULTIRUN
                if several or os.environ.get("HYDRA_FULL_ERROR"):
                    raise  # to exit here would take the other jobs of a grid along
                _fail(f"{type(error).__name__}: {error}")

        run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(
            guarded
        )

        def command() -> None:
            problem = explain_overrides(config_name, sys.argv[1:])
            if problem:
                _fail(problem)
            run()

        return command

    return decorate


def explain_overrides(config_name: str, arguments: Sequence[str]) -> str | None:
    """What is wrong with the settings on a command line, or None where nothing is.

    Hydra says that a key does not exist, but not which ones do.
    """
    overrides = [a for a in arguments if "=" in a and not a.startswith(("-", "hydra"))]
    groups = [a for a in overrides if _is_group(a)]
    values = [a for a in overrides if not _is_group(a) and not a.startswith(("+", "~"))]
    if any("," in a or "glob(" in a for a in groups):
        return None  # a sweep over groups: each job checks its own settings
    try:
        config = compose_config(config_name, groups)
    except (HydraException, OmegaConfBaseException):
        return None  # Hydra's own message names the options of the group
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
