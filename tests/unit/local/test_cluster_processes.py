"""A process is ours by its mark and its start time, and nobody else is ever signalled."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tessera.local.errors import LocalClusterError
from tessera.local.journal import JOURNAL_NAME, Journal, Kind
from tessera.local.processes import (
    find,
    in_execve,
    inspect,
    kill_all,
    main_process,
    parse_environment,
    parse_stat,
    role_runs_elsewhere,
    start,
)
from tessera.local.state import Identity

# Fresh in each process: two runs of the tests beside each other must not end each other's processes.
OURS = Identity("demo", uuid.uuid4().hex)
NAMESAKE = Identity("demo", uuid.uuid4().hex)
SLEEP = ["sleep", "60"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    yield Journal(tmp_path / JOURNAL_NAME)
    for identity in (OURS, NAMESAKE):
        kill_all(lambda identity=identity: find(identity=identity), identity=identity)  # type: ignore[misc]


def launch(
    journal: Journal, role: str = "etcd", *, command: list[str] = SLEEP, identity: Identity = OURS
) -> int:
    log = journal.path.parent / "logs" / f"{role}.log"
    return start(role, command, identity=identity, journal=journal, log=log).pid


def test_a_process_is_announced_before_it_starts(journal: Journal) -> None:
    with pytest.raises(FileNotFoundError):
        launch(journal, command=["/does/not/exist"])
    assert [(entry.kind, entry.name) for entry in journal.entries()] == [(Kind.PROCESS, "etcd")]


def test_a_process_is_found_by_mark_and_role(journal: Journal) -> None:
    pid = launch(journal)
    launch(journal, "kubelet")
    launch(journal, identity=NAMESAKE)
    assert [process.pid for process in find(identity=OURS, role="etcd")] == [pid]
    assert len(find(identity=OURS)) == 2


def test_children_that_outlive_their_parent_are_found_but_are_not_the_main_process(journal: Journal) -> None:
    program = "import subprocess; subprocess.Popen(['sleep', '60'])"
    pid = launch(journal, "containerd", command=[sys.executable, "-c", program])
    os.waitpid(pid, 0)
    assert main_process("containerd", identity=OURS) is None
    (orphan,) = find(identity=OURS, role="containerd")
    assert orphan.session == pid


def test_the_process_that_was_started_is_the_main_one(journal: Journal) -> None:
    program = "import subprocess; subprocess.run(['sleep', '60'])"
    pid = launch(journal, "containerd", command=[sys.executable, "-c", program])
    main = main_process("containerd", identity=OURS)
    assert main is not None and main.pid == pid


def test_killing_takes_all_of_ours_and_none_of_a_namesake(journal: Journal) -> None:
    launch(journal)
    other = launch(journal, identity=NAMESAKE)
    assert kill_all(lambda: find(identity=OURS), identity=OURS) == 1
    assert find(identity=OURS) == []
    assert inspect(other, identity=NAMESAKE) is not None


def test_a_pid_that_now_belongs_to_another_process_is_not_signalled(journal: Journal) -> None:
    """The kernel gave the pid away between our look and our signal: the start time differs."""
    pid = launch(journal)
    seen = inspect(pid, identity=OURS)
    assert seen is not None
    earlier = replace(seen, started_ticks=seen.started_ticks - 1)
    looks = iter([[earlier], []])
    assert kill_all(lambda: next(looks), identity=OURS) == 0
    assert inspect(pid, identity=OURS) == seen


def test_a_process_in_the_midst_of_execve_is_waited_for(journal: Journal) -> None:
    """`start` returns in that moment now and then; each of many starts is seen at once all the same."""
    for number in range(40):
        pid = launch(journal, f"role-{number}")
        assert inspect(pid, identity=OURS) is not None


def test_a_process_without_environment_is_not_waited_for(tmp_path: Path) -> None:
    """What the kernel shows in the midst of execve, after it, and of a process without a program."""

    def shows(directory: str, *, env_start: int, program: bool) -> Path:
        process = tmp_path / directory
        process.mkdir()
        fields = ["0"] * 50
        fields[47] = str(env_start)
        (process / "stat").write_text(f"42 (a) b) {' '.join(fields)}")
        if program:
            (process / "exe").symlink_to("/bin/true")
        return process

    assert in_execve(shows("under-way", env_start=0, program=True))
    assert not in_execve(shows("empty", env_start=140720579776493, program=True))
    assert not in_execve(shows("kernel-thread", env_start=0, program=False))
    assert not in_execve(Path("/proc/self"))


def test_a_process_that_cannot_be_killed_is_named(journal: Journal) -> None:
    pid = launch(journal)
    seen = inspect(pid, identity=OURS)
    assert seen is not None
    stuck = replace(seen, started_ticks=0)
    with pytest.raises(LocalClusterError, match=rf"etcd \(pid {pid}\) did not end"):
        kill_all(lambda: [stuck], identity=OURS, timeout_seconds=0)


def test_a_zombie_counts_as_gone() -> None:
    marks = {"TESSERA_CLUSTER": OURS.mark, "TESSERA_CLUSTER_PROCESS": "etcd"}
    child = subprocess.Popen(["true"], env={**os.environ, **marks})
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert inspect(child.pid, identity=OURS) is None
    child.wait()


def test_a_role_elsewhere_is_one_of_another_cluster(journal: Journal) -> None:
    launch(journal, "test-role")
    assert not role_runs_elsewhere("test-role", identity=OURS)
    assert role_runs_elsewhere("test-role", identity=NAMESAKE)


def test_stat_is_parsed_from_the_last_parenthesis() -> None:
    line = "42 (a) b (c) S 7 42 41 " + " ".join(str(number) for number in range(7, 23))
    assert parse_stat(line) == ("S", 41, 22)
    assert parse_stat(Path("/proc/self/stat").read_text())[1] == os.getsid(0)


def test_environment_values_may_hold_equal_signs() -> None:
    assert parse_environment(b"A=1\0B=x=y\0C=\0broken\0") == {"A": "1", "B": "x=y", "C": ""}
