"""How a worker ends when it does not end well: one exception per ending, each with its exit code.

The exit code is what a Job's `podFailurePolicy` sees, the reason is what the operator copies into a
condition, and the message is the one line that a person reads. The codes are a contract
(docs/architecture.md): an invalid request is never retried, a full GPU is re-planned, a pre-empted run comes
back.
"""

from enum import IntEnum
from typing import ClassVar, Literal

Outcome = Literal["complete", "preempted", "failed", "invalid"]


class ExitCode(IntEnum):
    """The worker's exit codes (docs/architecture.md). 1 is what Python itself returns for a defect."""

    COMPLETE = 0
    CRASHED = 1
    INVALID = 2
    GATE_FAILED = 3
    OUT_OF_MEMORY = 42
    PREEMPTED = 143


class WorkerError(Exception):
    """An ending with a known cause: its message is printed as one line, without a traceback."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASHED
    outcome: ClassVar[Outcome] = "failed"
    reason: ClassVar[str] = "Failed"


class InvalidRequest(WorkerError):
    """What was asked for cannot be run, now or later, as it is written."""

    exit_code = ExitCode.INVALID
    outcome = "invalid"
    reason = "InvalidRequest"


class UnknownWorkload(InvalidRequest):
    """No workload of that name, or a `package.module:Class` that cannot be imported."""

    reason = "UnknownWorkload"


class InvalidParameter(InvalidRequest):
    """A parameter is unknown, of the wrong type or out of its range."""

    reason = "InvalidParameter"


class NotOffered(InvalidRequest):
    """The workload exists and does not do what was asked of it."""

    reason = "NotOffered"


class ThreadCountChanged(InvalidRequest):
    """The checkpoint is from another number of threads: the result would differ in its last bits."""

    reason = "ThreadCountChanged"


class NoCheckpoint(InvalidRequest):
    """`evaluate` and `infer` need a checkpoint of the same configuration, and there is none."""

    reason = "NoCheckpoint"


class PortInUse(InvalidRequest):
    """The progress port is taken."""

    reason = "PortInUse"


class OutputNotWritable(InvalidRequest):
    """The output directory cannot be made or written."""

    reason = "OutputNotWritable"


class SliceUnusable(WorkerError):
    """The container holds a GPU slice that torch cannot use: the node or the image is at fault, not the
    request.
    """

    reason = "SliceUnusable"


class OutOfMemory(WorkerError):
    """The work does not fit the GPU memory of the slice."""

    exit_code = ExitCode.OUT_OF_MEMORY
    reason = "OutOfMemory"


class NonFiniteLoss(WorkerError):
    """The loss became NaN or infinite. The same run would do so again, so it counts as a failed gate."""

    exit_code = ExitCode.GATE_FAILED
    reason = "NonFiniteLoss"


class GateFailed(WorkerError):
    """Training ended, and a check that gates the result did not pass."""

    exit_code = ExitCode.GATE_FAILED
    reason = "GateFailed"


class Preempted(WorkerError):
    """SIGTERM came; what could be saved is saved."""

    exit_code = ExitCode.PREEMPTED
    outcome = "preempted"
    reason = "Preempted"
