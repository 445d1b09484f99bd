"""A piece of work in a copy of this process, for tests in which it dies."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def in_a_fork(work: Callable[[], object]) -> int:
    """The exit status: 0 when the work returned, 1 when it raised, negative for the signal that killed it.

    A fork, because a fresh interpreter would import everything anew.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
