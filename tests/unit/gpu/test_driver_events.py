"""What the driver reports by itself, as the agent reads it: at each look, without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tessera.gpu.driver import Xid
from tessera.gpu.faults import NVMLFault
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.xids import Harm, harm_of_action, harm_of_xid, words_of_action


class Node:
    """Two H100 with MIG on, and the calls of one process that has looked for events once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.library = SimulatedLibrary.at(directory, model="H100-80GB", count=2, seed="events")
        self.nvml = NVML(self.library)
        self.uuids = [gpu.uuid for gpu in self.nvml.inventory().gpus]
        for uuid in self.uuids:
            self.nvml.set_mig_mode(uuid, True)
        assert self.xids() == {}

    def xids(self) -> dict[tuple[int, int, int | None], int]:
        """(index of the GPU, Xid, GPU instance) -> how often."""
        return {
            (self.uuids.index(xid.gpu_uuid), xid.xid, xid.gpu_instance_id): xid.count
            for xid in self.nvml.events().xids
        }

    def report(self, xid: int, *, index: int = 0, times: int = 1) -> None:
        for _ in range(times):
            control.report_xid(self.directory, index=index, xid=xid)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    found = Node(tmp_path)
    yield found
    found.library.faults.set([])
    found.nvml.close()


def test_equal_xids_are_counted_and_each_is_told_once(node: Node) -> None:
    node.report(31, times=3)
    node.report(31, index=1)
    node.report(79)
    assert node.xids() == {(0, 31, None): 3, (0, 79, None): 1, (1, 31, None): 1}
    assert node.xids() == {}


def test_an_xid_of_a_slice_names_its_gpu_instance(node: Node) -> None:
    instance = node.nvml.create_gpu_instance(node.uuids[1], 14, 4, 2)
    compute = node.nvml.create_compute_instance(node.uuids[1], instance)
    control.report_xid(node.directory, index=1, xid=94, mig_uuid=compute.uuid)
    assert node.nvml.events().xids == (Xid(node.uuids[1], 94, instance, 1),)


def test_a_lost_gpu_tells_its_last_xid_and_the_others_go_on(node: Node) -> None:
    control.lose(node.directory, index=0)
    assert node.xids() == {(0, 79, None): 1}
    node.report(13, index=1)
    assert node.xids() == {(1, 13, None): 1}
    assert not node.nvml.events().unheard


def test_after_a_reset_events_are_heard_again(node: Node) -> None:
    control.lose(node.directory, index=0)
    node.xids()
    node.xids()
    control.reset(node.directory, index=0)
    assert node.xids() == {}
    node.report(31)
    assert node.xids() == {(0, 31, None): 1}


def test_a_wait_that_fails_silences_one_gpu_until_the_next_look(node: Node) -> None:
    node.library.faults.set([Fault("nvmlEventSetWait_v2", times=1, code=999)])
    events = node.nvml.events()
    assert list(events.unheard) == node.uuids[:1]
    assert "nvmlEventSetWait_v2" in events.unheard[node.uuids[0]]
    assert not node.nvml.events().unheard
    node.report(48)
    assert node.xids() == {(0, 48, None): 1}


def test_what_was_read_before_a_wait_failed_is_told(node: Node) -> None:
    node.report(31, times=2)
    node.library.faults.set([Fault("nvmlEventSetWait_v2", nth=3, code=999)])
    before = set(node.library.event_sets)
    assert node.xids() == {(0, 31, None): 2}
    node.library.faults.set([])
    assert node.xids() == {}
    assert len(set(node.library.event_sets) - before) == 1  # a set that failed is not used again


@pytest.mark.parametrize(
    "symbol", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlDeviceGetCount_v2"]
)
def test_a_driver_that_refuses_is_asked_again(node: Node, symbol: str) -> None:
    control.lose(node.directory, index=1)
    node.xids()
    node.nvml.close()
    control.reset(node.directory, index=1)
    node.library.faults.set([Fault(symbol, times=1, code=999)])
    if symbol == "nvmlDeviceGetCount_v2":
        with pytest.raises(NVMLFault):
            node.nvml.events()
    else:
        assert list(node.nvml.events().unheard) == node.uuids[:1]
    assert not node.nvml.events().unheard
    node.report(31)
    node.report(31, index=1)
    assert node.xids() == {(0, 31, None): 1, (1, 31, None): 1}


def test_a_gpu_whose_name_is_lost_with_it_is_left_out(node: Node) -> None:
    node.library.faults.set([Fault("nvmlDeviceGetUUID", times=1, code=15)])
    assert [gpu.uuid for gpu in node.nvml.inventory().gpus] == node.uuids[1:]
    node.library.faults.set([Fault("nvmlDeviceGetHandleByIndex_v2", times=1, code=15)])
    node.report(13, index=1)
    assert node.xids() == {(1, 13, None): 1}


def test_the_driver_says_what_a_gpu_needs_and_that_the_reset_was_enough(node: Node) -> None:
    assert [gpu.recovery_action for gpu in node.nvml.inventory().gpus] == [0, 0]
    node.report(31)
    node.report(95, index=1)
    assert [gpu.recovery_action for gpu in node.nvml.inventory().gpus] == [0, 1]
    control.reset(node.directory, index=1)
    assert [gpu.recovery_action for gpu in node.nvml.inventory().gpus] == [0, 0]


def test_a_driver_from_before_recovery_actions_says_none(node: Node) -> None:
    for code in (3, 13):
        node.library.faults.set([Fault("nvmlDeviceGetFieldValues", times=2, code=code)])
        assert [gpu.recovery_action for gpu in node.nvml.inventory().gpus] == [None, None]
        assert not any(gpu.fault for gpu in node.nvml.inventory().gpus)


@pytest.mark.parametrize(
    ("xid", "of_instance", "harm"),
    [
        *((xid, True, Harm.NONE) for xid in (13, 31, 43, 45, 68, 109, 63, 92)),
        (94, True, Harm.INSTANCE),
        (94, False, Harm.NONE),
        *((xid, False, Harm.RESET) for xid in (48, 64, 79, 95, 119, 120, 140)),
        (95, True, Harm.RESET),
        (9999, True, Harm.INSTANCE),
        (9999, False, Harm.DRAIN),
        (74, False, Harm.DRAIN),
    ],
)
def test_harm_by_the_catalogue(xid: int, of_instance: bool, harm: Harm) -> None:
    assert harm_of_xid(xid, of_instance=of_instance) is harm


def test_harm_by_the_drivers_own_word() -> None:
    assert [harm_of_action(action) for action in range(8)] == [
        Harm.NONE,
        Harm.RESET,
        Harm.RESET,
        Harm.NONE,
        Harm.DRAIN,
        Harm.NONE,
        Harm.RESET,
        Harm.RESET,
    ]
    assert harm_of_action(99) is Harm.DRAIN
    assert "99" in words_of_action(99)
