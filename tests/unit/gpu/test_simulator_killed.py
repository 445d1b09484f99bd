"""A process of the simulated node killed at every line that writes its files: nothing is ever damaged.

A forked child runs the change and kills itself at the n-th traced line; n counts up until a child lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from forked import in_a_fork
from tessera.gpu.simulator import faults, rules, state
from tessera.gpu.simulator.faults import Fault, FaultInjector
from tessera.gpu.simulator.state import Node, StateFile

_WRITING = {"ensure", "change", "_locked", "_store", "_hit_in_file"}
"""The functions that write or lock; all others read or compute, and cannot leave anything half done."""

MODEL = "A100-80GB"


def killed_at_every_line(action: Callable[[], None], *, module: Any) -> Iterator[int]:
    """For each writing line of `module` that the action runs: fork a child, kill it there, yield."""
    number = 0
    while True:
        number += 1
        status = in_a_fork(partial(_run_and_die, action, module.__file__, number))
        if status >= 0:
            assert status == 0, "the action failed in the child"
            return
        yield number


def _run_and_die(action: Callable[[], None], path: str, number: int) -> None:
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != path or frame.f_code.co_name not in _WRITING:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    action()


def create(directory: Path, start: int) -> None:
    with StateFile(directory).change() as node:
        rules.create_instance(node, node.gpus[0], profile_id=14, start=start, size=2)


def starts(node: Node) -> list[int]:
    return [instance.start for instance in node.gpus[0].instances]


def test_a_change_killed_at_any_line_has_happened_or_not_and_the_next_one_works(tmp_path: Path) -> None:
    StateFile(tmp_path).ensure(model=MODEL, count=1, seed="node")
    create(tmp_path, 0)
    before = (tmp_path / "gpus.json").read_text()
    seen = []
    for _ in killed_at_every_line(lambda: create(tmp_path, 2), module=state):
        found = StateFile(tmp_path).read()
        assert starts(found) in ([0], [0, 2])
        seen.append(len(found.gpus[0].instances))
        create(tmp_path, 4)
        assert starts(StateFile(tmp_path).read()) == [*starts(found), 4]
        (tmp_path / "gpus.json").write_text(before)
    assert seen == sorted(seen), "once it has happened it stays"
    assert {1, 2} == set(seen), "the kills enclose the moment at which it happens"
    assert {file.name for file in tmp_path.iterdir()} == {"gpus.json", "gpus.lock"}


def test_a_node_whose_first_start_is_killed_at_any_line_starts_the_next_time(tmp_path: Path) -> None:
    def first_start() -> None:
        StateFile(directory).ensure(model=MODEL, count=1, seed="node")

    directory = tmp_path / "0"
    lines = 0
    for number in killed_at_every_line(first_start, module=state):
        first_start()
        assert [gpu.model for gpu in StateFile(directory).read().gpus] == [MODEL]
        directory = tmp_path / str(number)
        lines = number
    assert lines > 15


def test_fault_rules_killed_while_they_are_counted_stay_whole(tmp_path: Path) -> None:
    counts = set()
    injector = FaultInjector(tmp_path)
    injector.set([Fault("f", nth=5)])
    for _ in killed_at_every_line(lambda: _call(injector), module=faults):
        (rule,) = faults.parse((tmp_path / "faults.json").read_text())
        counts.add(rule.seen)
        injector.set([Fault("f", nth=5)])
    assert counts == {0, 1}


def _call(injector: FaultInjector) -> None:
    assert injector.around("f", lambda: 0) == 0
