"""What to do when a training fails: into which parts a stack is cut, and whether another try can end otherwise."""

from __future__ import annotations

from collections.abc import Sequence


def smaller(error: Exception, left: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], str]:
    """The parts that a stack which failed is cut into, and how in words.

    Args:
        left: the places of the trajectories that have not ended.
    """
    if not is_out_of_memory(error):
        return tuple((place,) for place in left), "one by one"
    halves = (tuple(left[: len(left) // 2]), tuple(left[len(left) // 2 :]))
    return tuple(part for part in halves if part), "in halves"


def is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def may_pass(error: Exception) -> bool:
    """Whether another try can end otherwise: an error of the machine, not of a value."""
    return (
        isinstance(error, OSError)
        or is_out_of_memory(error)
        or (isinstance(error, RuntimeError) and any(part in str(error) for part in ("CUDA", "cuDNN", "CUBLAS", "MPS")))
    )


def free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
