"""A change of layout that fails, is interrupted or killed at any step ends in the old or the new layout.

The steps are counted, not sampled. A first run writes down every call to the driver; the calls that change
something are then hit one by one, before and after they take effect, by a kill and by an error. Between them
only questions are asked; a kill there leaves what a kill after the change before it leaves, and of the errors
there the first of each question is tried. The instance that stays has a process on it in all of these.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from forked import in_a_fork
from relayout_bench import NEW, OLD, Bench, old_node
from tessera.gpu.driver import LocalDriver
from tessera.gpu.simulator.faults import ENVIRONMENT, EVERY_SYMBOL, Fault, FaultInjector
from tessera.relayout import journal as journal_module
from tessera.relayout.errors import LayoutNotApplied
from tessera.relayout.settling import Settled

CHANGING = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlGpuInstanceDestroy",
    "nvmlComputeInstanceDestroy",
)
KILLED = 137


@dataclass
class Steps:
    """The numbers (from 1) of the calls that change something, and of the first call of each driver method
    after the journal is written.
    """

    changes: list[int]
    questions: list[int]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # A killed process loses nothing that it has written; only a power cut needs the disk to be waited for.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return old_node(tmp_path / "node")


def counted(node: Bench, work: Callable[[Bench], object], monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Run the work on a copy and write its calls down."""
    symbols: list[str] = []
    methods: list[int] = []
    around, call, write = FaultInjector.around, LocalDriver.call, journal_module.Journal.write

    def noted(self: FaultInjector, symbol: str, body: Callable[[], int]) -> int:
        symbols.append(symbol)
        return around(self, symbol, body)

    def called(self: LocalDriver, method: str, *arguments: object) -> object:
        methods.append(len(symbols) + 1)
        return call(self, method, *arguments)

    def written(self: journal_module.Journal, entries: tuple[journal_module.Entry, ...]) -> None:
        methods.clear()
        write(self, entries)

    with monkeypatch.context() as patch:
        patch.setattr(FaultInjector, "around", noted)
        patch.setattr(LocalDriver, "call", called)
        patch.setattr(journal_module.Journal, "write", written)
        work(node.fresh("counted"))
    changes = [number for number, symbol in enumerate(symbols, start=1) if symbol in CHANGING]
    return Steps(changes=changes, questions=[n for n in methods if n <= len(symbols) and n not in changes])


def killed(node: Bench, work: Callable[[Bench], object], fault: Fault) -> int:
    """Run the work in a process of its own under the fault; returns its exit status."""

    def under_the_fault() -> None:
        os.environ[ENVIRONMENT] = json.dumps([asdict(fault)])
        work(node)

    return in_a_fork(under_the_fault)


def everything_is_well(node: Bench, before: str) -> tuple[str, ...]:
    """No journal is left, the busy instance was not touched, and there is one of the two layouts."""
    assert node.journal.read() is None
    assert node.uuid(0, 4) == before
    assert node.machine().gpus[0].standing[-1].pids == (os.getpid(),)
    layouts = node.layouts()
    assert layouts in (OLD, NEW)
    return layouts


def test_a_kill_at_every_change_is_settled_by_the_next_call(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(node, Bench.apply, monkeypatch)
    assert len(steps.changes) == 10
    before = node.uuid(0, 4)
    outcomes = []
    for number, when in itertools.product(steps.changes, ("before", "after")):
        copy = node.fresh(f"{number}-{when}")
        fault = Fault(EVERY_SYMBOL, nth=number, action="exit", when=when)
        assert killed(copy, Bench.apply, fault) == KILLED
        copy.recover()
        outcomes.append(everything_is_well(copy, before))
    # Only after the last change is there nothing left to do but to keep it.
    assert outcomes == [OLD] * 19 + [NEW]


def test_a_kill_in_the_recovery_is_settled_by_the_call_after_it(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the state that has the most to undo: everything is gone and one instance is half made."""
    steps = counted(node, Bench.apply, monkeypatch)
    before = node.uuid(0, 4)
    dead = node.fresh("dead")
    fault = Fault(EVERY_SYMBOL, nth=steps.changes[8], action="exit", when="after")
    assert killed(dead, Bench.apply, fault) == KILLED
    undoing = counted(dead, Bench.recover, monkeypatch)
    assert len(undoing.changes) >= 8
    for number, when in itertools.product(undoing.changes, ("before", "after")):
        copy = dead.fresh(f"again-{number}-{when}")
        assert (
            killed(copy, Bench.recover, Fault(EVERY_SYMBOL, nth=number, action="exit", when=when)) == KILLED
        )
        copy.recover()
        assert everything_is_well(copy, before) == OLD


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_while_the_journal_is_written_or_removed(
    node: Bench, monkeypatch: pytest.MonkeyPatch, number: int, when: str
) -> None:
    """fsync comes three times: of the new file, of its directory, and of the directory once it is removed."""
    before = node.uuid(0, 4)

    class DyingDisk:
        O_RDONLY, O_CREAT, O_RDWR, O_CLOEXEC = os.O_RDONLY, os.O_CREAT, os.O_RDWR, os.O_CLOEXEC
        open, close = staticmethod(os.open), staticmethod(os.close)
        calls = 0

        @classmethod
        def fsync(cls, descriptor: int) -> None:
            cls.calls += 1
            if cls.calls == number and when == "before":
                os._exit(KILLED)
            os.fsync(descriptor)
            if cls.calls == number:
                os._exit(KILLED)

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "os", DyingDisk)
        assert killed(node, Bench.apply, Fault("none")) == KILLED
    node.recover()
    assert everything_is_well(node, before) == (NEW if number == 3 else OLD)


def test_an_error_at_every_step_brings_the_old_layout_back(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(node, Bench.apply, monkeypatch)
    before = node.uuid(0, 4)
    points = [(number, when) for number in steps.changes for when in ("before", "after")]
    points += [(number, "before") for number in steps.questions]
    assert len(points) > 28
    for number, when in points:
        copy = node.fresh(f"{number}-{when}")
        fault = Fault(EVERY_SYMBOL, nth=number, code=999, when=when)
        monkeypatch.setenv(ENVIRONMENT, json.dumps([asdict(fault)]))
        with pytest.raises(LayoutNotApplied, match="The former layout is back"):
            copy.apply()
        monkeypatch.delenv(ENVIRONMENT)
        assert everything_is_well(copy, before) == OLD


def test_an_interrupt_between_any_two_steps_brings_the_old_layout_back(node: Bench) -> None:
    before = node.uuid(0, 4)
    for number in itertools.count(1):
        copy = node.fresh(f"interrupted-{number}")
        asked = itertools.count(1)
        try:
            copy.apply(stopped=lambda asked=asked, number=number: next(asked) == number)  # type: ignore[misc]
        except LayoutNotApplied as error:
            assert "interrupted" in str(error) and "The former layout is back" in str(error)
            assert everything_is_well(copy, before) == OLD
        else:
            break
    assert number == 12  # ten steps and the last moment before the journal goes
    assert everything_is_well(copy, before) == NEW


def test_a_driver_that_never_recovers_keeps_the_journal_for_a_better_day(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(node, Bench.apply, monkeypatch)
    before = node.uuid(0, 4)
    for number in steps.changes[1:]:
        copy = node.fresh(f"dead-{number}")
        fault = Fault(EVERY_SYMBOL, nth=number, times=0, code=999)
        monkeypatch.setenv(ENVIRONMENT, json.dumps([asdict(fault)]))
        with pytest.raises(LayoutNotApplied, match=r"could not be restored.*relayout\.json"):
            copy.apply()
        monkeypatch.delenv(ENVIRONMENT)
        assert copy.recover() is Settled.OLD
        assert everything_is_well(copy, before) == OLD
