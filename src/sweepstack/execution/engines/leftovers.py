"""Takes over a stack from a worker that is lost, or that an earlier command had started."""

from __future__ import annotations

from pathlib import Path

from sweepstack.errors import StoreError
from sweepstack.execution.engines.channel import Reports, ask_to_stop, work_folder
from sweepstack.execution.executor import UnreachableError
from sweepstack.execution.session import Session
from sweepstack.planning.plan import Stack


def take_over(session: Session, stack: Stack) -> Stack:
    """Takes what a worker has reported of a stack and nobody has read, and gives the stack a new id.

    The worker may still live, on a machine that cannot be reached: it goes on under the old id, which nobody reads.
    A trial with files that cannot be moved has failed, so that the others go on.

    Args:
        session: the session that trains the stack now.
        stack: the stack.

    Returns:
        The stack under its new id, with the checkpoints of the old one; as it is if no worker had it.

    Raises:
        StoreError: what the worker has reported cannot be read. Without it, trials would be trained twice.
    """
    folder = work_folder(session.journal_folder, stack.id)
    if not folder.is_dir():
        return stack
    ask_to_stop(folder, "another worker has taken its stack over", over=True)
    renewed = session.renewed(stack)  # before its reports are read: a checkpoint must not be ahead of them
    try:
        Reports(folder, stack, session, is_patient=False).pass_on(only_settled=True)
    except UnreachableError as error:
        raise unreachable(session.journal_folder, error) from error
    session.sync()
    session.keep_renewed(renewed)
    session.forget_work(stack)
    return renewed


def unreachable(journal: Path, error: UnreachableError) -> StoreError:
    """Returns the error that ends a command which cannot read what workers report.

    Args:
        journal: the folder of the journal.
        error: why it cannot.
    """
    rule = f"the folder of the journal must be readable, the reports of workers in {journal} are not ({error})"
    return StoreError(rule, remedy="see to its disk, then type the same command again: it goes on from here")
