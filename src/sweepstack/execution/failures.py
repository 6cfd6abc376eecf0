"""What to do when a training fails: into which parts a stack is cut, and whether another try can end otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweepstack.planning.plan import Trajectory


def smaller(error: Exception) -> tuple[Callable[[Sequence[Trajectory]], list[Sequence[Trajectory]]], str]:
    """How a stack that failed is cut, and in words."""
    if not is_out_of_memory(error):
        return lambda left: [[one] for one in left], "one by one"
    return lambda left: [part for part in (left[: len(left) // 2], left[len(left) // 2 :]) if part], "in halves"


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
