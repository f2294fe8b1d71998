"""Out of memory: recognised wherever it happens, and told with what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from focus.errors import BranchMemoryError

if TYPE_CHECKING:
    from focus.generate import BranchedPrompt


@contextmanager
def memory_errors(branches: BranchedPrompt, num_sequences: int) -> Iterator[None]:
    """Turns an out-of-memory failure into one that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(branches, num_sequences) from error


def out_of_memory(branches: BranchedPrompt, num_sequences: int) -> BranchMemoryError:
    """An error that says what there was no memory for, and what to lower."""
    prompt, plan = branches.prompt, branches.plan
    return BranchMemoryError(
        f"out of memory with N={len(prompt.spans)} images, {len(plan.rows)} rows of "
        f"{prompt.input_ids.shape[1]} tokens and {num_sequences} returned sequences; lower the "
        f"image budget (max_pixels, max_tiles), encode_batch={branches.encode_batch} or "
        "num_return_sequences, or name fewer target images (fewer rows)"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or elsewhere."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError, and so do CUDA's own libraries.
    signs = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return any(sign in str(error) for sign in signs)
