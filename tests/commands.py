"""Commands of `experiments`, run in this process: what `python -m` does, without its imports.

Those take longer than anything that a command does to a tiny model. What only a process of its own
can show (a fresh interpreter, a kill) is tested in one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import sys
import traceback
import warnings
from subprocess import CompletedProcess

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra


def run(module: str, *arguments: str, **environment: str) -> CompletedProcess[str]:
    """`python -m module arguments` as a finished process; `environment` is set while it runs."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    threads, log = torch.get_num_threads(), logging.root
    kept = list(log.handlers), log.level
    GlobalHydra.instance().clear()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", [module, *arguments])
        for name, value in environment.items():
            patch.setenv(name, value)
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        # Imported already: it is run once more, as `__main__`.
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            GlobalHydra.instance().clear()
            torch.set_num_threads(threads)
            log.handlers[:], log.level = kept
    return CompletedProcess([module, *arguments], status, out.getvalue(), err.getvalue())
