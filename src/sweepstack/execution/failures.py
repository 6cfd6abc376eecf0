"""What to do when a training fails: into which parts to cut a stack, and whether another try can succeed."""

from __future__ import annotations

from collections.abc import Sequence


def cut_stack(error: Exception, unended: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], str]:
    """Decides into which parts a stack that failed is cut.

    Args:
        error: why it failed.
        unended: the indices of the trajectories that have not ended.

    Returns:
        The indices of the trajectories of each part, and how the stack was cut, in words.
    """
    if not is_out_of_memory(error):
        return tuple((index,) for index in unended), "one by one"
    return halves(unended), "in halves"


def halves(unended: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Cuts the indices of trajectories in halves."""
    both = (tuple(unended[: len(unended) // 2]), tuple(unended[len(unended) // 2 :]))
    return tuple(part for part in both if part)


def is_out_of_memory(error: Exception) -> bool:
    """True if an error says that the memory of the machine or of its accelerator is full."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def may_pass(error: Exception) -> bool:
    """True if another try can succeed: an error of the machine, not of a value."""
    return (
        isinstance(error, OSError)
        or is_out_of_memory(error)
        or (isinstance(error, RuntimeError) and any(part in str(error) for part in ("CUDA", "cuDNN", "CUBLAS", "MPS")))
    )


def free_memory() -> None:
    """Frees the memory of the GPU that PyTorch keeps for later use."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
