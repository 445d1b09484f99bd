"""The journal is on disk before a resource is made, survives torn writes, and claims only what is ours."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from forked import in_a_fork
from tessera.local.errors import NotOursError
from tessera.local.journal import (
    JOURNAL_NAME,
    KILL_AFTER_VARIABLE,
    Entry,
    Journal,
    Kind,
    refuse_foreign_directory,
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / JOURNAL_NAME)


def test_entries_come_back_in_the_order_of_their_announcement(journal: Journal) -> None:
    journal.announce(Kind.CLUSTER, "demo", uid="1234")
    journal.announce(Kind.PROCESS, "etcd")
    assert Journal(journal.path).entries() == [
        Entry(Kind.CLUSTER, "demo", {"uid": "1234"}),
        Entry(Kind.PROCESS, "etcd", {}),
    ]


def test_a_second_announcement_of_the_same_thing_adds_nothing(journal: Journal) -> None:
    journal.announce(Kind.PROCESS, "etcd")
    journal.announce(Kind.PROCESS, "etcd")
    assert journal.entries() == [Entry(Kind.PROCESS, "etcd", {})]


def test_a_torn_last_line_is_ignored_and_does_not_swallow_the_next(journal: Journal) -> None:
    journal.announce(Kind.CLUSTER, "demo", uid="1234")
    with journal.path.open("ab") as file:
        file.write(b'{"kind": "process", "na')
    assert [entry.kind for entry in journal.entries()] == [Kind.CLUSTER]
    journal.announce(Kind.BRIDGE, "tessera0")
    assert [entry.kind for entry in journal.entries()] == [Kind.CLUSTER, Kind.BRIDGE]


def test_a_journal_that_does_not_exist_is_empty(journal: Journal) -> None:
    assert journal.entries() == []
    assert journal.cluster() is None


def test_the_line_is_on_disk_when_the_kill_hook_strikes(journal: Journal) -> None:
    def announce() -> None:
        os.environ[KILL_AFTER_VARIABLE] = "2"
        dying = Journal(journal.path)
        for role in ("one", "two", "three"):
            dying.announce(Kind.PROCESS, role)

    assert in_a_fork(announce) == -signal.SIGKILL
    assert [entry.name for entry in journal.entries()] == ["one", "two"]


@pytest.mark.parametrize("content", [["thesis.txt"], ["thesis.txt", JOURNAL_NAME]])
def test_a_directory_with_other_content_is_refused_by_name(tmp_path: Path, content: list[str]) -> None:
    for name in content:
        (tmp_path / name).write_text("")
    with pytest.raises(NotOursError, match=r"thesis\.txt.*choose another --name or --state-dir"):
        refuse_foreign_directory(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(NotOursError, match="is not a directory"):
        refuse_foreign_directory(tmp_path / "demo")


def test_our_own_and_empty_directories_are_accepted(tmp_path: Path) -> None:
    refuse_foreign_directory(tmp_path / "absent")
    refuse_foreign_directory(tmp_path)
    (tmp_path / JOURNAL_NAME).write_text("")  # Killed between making the journal and its first line.
    refuse_foreign_directory(tmp_path)
    Journal(tmp_path / JOURNAL_NAME).announce(Kind.CLUSTER, "demo", uid="1")
    (tmp_path / "etcd").mkdir()
    refuse_foreign_directory(tmp_path)
