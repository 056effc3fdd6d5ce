"""Work for what a fit leaves idle: half a core and more, while its threads wait for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
TURN = 0.0005  # seconds that a thread holds the interpreter while another waits for it


@contextmanager
def beside(do: Callable[[], T], *, gently: bool) -> Iterator[Future[T]]:
    """Do something in a thread beside the block, which ends when both are done.

    Parameters
    ----------
    do
        What to do; an error of it is raised where the result is asked for, and nowhere else.
    gently
        Leave the cores to the block wherever it can use them.
    """
    turn = sys.getswitchinterval()
    # the block mostly works outside of the interpreter's lock, and takes it often but briefly
    sys.setswitchinterval(min(turn, TURN))
    try:
        with ThreadPoolExecutor(1, initializer=_yield if gently else None) as pool:
            yield pool.submit(do)
    finally:
        sys.setswitchinterval(turn)


def _yield() -> None:
    """Let this thread, and those that it starts, have a tenth where others want the rest."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(10)
