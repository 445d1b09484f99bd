"""Applying a layout to simulated GPUs: all or nothing, and nothing that a process uses.

Kills, errors and interrupts at every step: `tests/simulation/test_relayout_survives.py`.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from relayout_bench import ASKED, NEW, OLD, Bench
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator import control
from tessera.gpu.simulator.faults import Fault
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.simulator.state import StateFile
from tessera.relayout.errors import JournalInTheWay, LayoutBlocked, LayoutNotApplied
from tessera.relayout.settling import Settled

DESTROY_COMPUTE = "nvmlComputeInstanceDestroy"
CREATE_COMPUTE = "nvmlGpuInstanceCreateComputeInstance"


def test_all_gpus_get_their_layouts_and_a_busy_instance_that_stays_is_not_touched(node: Bench) -> None:
    before = node.uuid(0, 4)
    node.apply()
    assert node.layouts() == NEW
    assert node.uuid(0, 4) == before
    assert node.machine().gpus[0].standing[-1].pids == (os.getpid(),)
    assert node.journal.read() is None


def test_applying_again_changes_nothing(node: Bench) -> None:
    node.apply()
    before = [node.uuid(0, start) for start in (0, 3, 4)]
    node.apply()
    assert [node.uuid(0, start) for start in (0, 3, 4)] == before


def test_nothing_is_done_while_a_process_runs_in_an_instance_that_has_to_go(node: Bench) -> None:
    with pytest.raises(LayoutBlocked, match=rf"GPU 0: 3g\.40gb@4 has to go and holds process {os.getpid()}"):
        node.apply(("7g.80gb", ASKED[1]))
    assert node.layouts() == OLD
    assert node.journal.read() is None


def test_mig_mode_is_not_switched_while_a_process_holds_the_gpu(node: Bench) -> None:
    control.hold(node.directory, index=1, pid=os.getpid())
    with pytest.raises(LayoutBlocked, match=rf"GPU 1: MIG mode has to change .* process {os.getpid()}"):
        node.apply()
    assert node.layouts() == OLD


def test_mig_mode_goes_off_after_the_instances(node: Bench) -> None:
    node.apply()
    node.apply((ASKED[0], "off"))
    assert node.layouts() == (NEW[0], "MIG off")


def test_an_ampere_gpu_says_that_it_needs_a_reset_and_stays_as_it_was(tmp_path: Path) -> None:
    SimulatedLibrary.at(tmp_path / "a100", model="A100-80GB", count=1, seed="node")
    node = Bench(tmp_path / "a100")
    node.apply(("3g.40gb@4",))
    with pytest.raises(
        LayoutNotApplied, match=r"needs a reset.*nvidia-smi -i 0 -mig 0.*former layout is back"
    ):
        node.apply(("off",))
    assert node.layouts() == ("3g.40gb@4",)


def test_a_process_that_starts_in_the_middle_is_not_lost(node: Bench) -> None:
    """Killed half-way; then something runs on a new instance: it stays, and the new layout is completed."""
    node.fail(
        Fault(CREATE_COMPUTE, nth=3, times=0, code=999), Fault(DESTROY_COMPUTE, nth=3, times=0, code=999)
    )
    with pytest.raises(LayoutNotApplied, match="could not be restored"):
        node.apply()
    node.fail()
    started = node.uuid(0, 0)
    node.occupy(0, 0)
    assert node.recover() is Settled.NEW
    assert node.layouts() == NEW
    assert node.uuid(0, 0) == started


def test_after_a_reboot_in_the_middle_the_whole_old_layout_is_made_again(node: Bench) -> None:
    node.fail(Fault(CREATE_COMPUTE, nth=2, times=0, code=999))
    with pytest.raises(LayoutNotApplied):
        node.apply()
    node.fail()
    control.reboot(node.directory)
    assert node.layouts() == ("MIG off", "MIG off")
    assert node.recover() is Settled.OLD
    assert node.layouts() == OLD


def test_a_lost_gpu_keeps_the_journal_until_it_is_back(node: Bench) -> None:
    node.fail(Fault(CREATE_COMPUTE, nth=2, action="lose", index=0))
    with pytest.raises(LayoutNotApplied, match=r"could not be restored: GPU 0 .*GPU_IS_LOST"):
        node.apply()
    node.fail()
    control.reset(node.directory, index=0)
    assert node.recover() is Settled.OLD
    assert node.layouts() == OLD


@pytest.mark.parametrize("start", [0, 3])
def test_what_another_program_does_meanwhile_is_noticed_and_undone(node: Bench, start: int) -> None:
    """Before the last step it destroys an instance of the new layout: a created one, a completed one."""
    asked = itertools.count(1)

    def meddle() -> bool:
        if next(asked) == 10:
            other = NVML(SimulatedLibrary(StateFile(node.directory)))
            gpu = other.inventory().gpus[0]
            victim = next(i for i in gpu.instances if i.start == start)
            other.destroy_compute_instance(gpu.uuid, victim.id, victim.compute[0].id)
            other.destroy_gpu_instance(gpu.uuid, victim.id)
        return False

    with pytest.raises(
        LayoutNotApplied, match=r"is not as it should be.*Another program.*The former layout is back"
    ):
        node.apply(stopped=meddle)
    assert node.layouts() == OLD


def test_two_commands_do_not_change_the_gpus_at_once(node: Bench) -> None:
    with (
        node.journal.locked(),
        pytest.raises(JournalInTheWay, match="another tessera gpu command is at work"),
        node.journal.locked(),
    ):
        pass
    with node.journal.locked():
        pass


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1, "checksum": "x", "entries": []}'])
def test_a_damaged_journal_is_not_acted_upon(node: Bench, content: str) -> None:
    node.journal.path.write_text(content)
    with pytest.raises(JournalInTheWay, match=r"damaged.*then remove the file"):
        node.recover()
    assert node.layouts() == OLD


def test_no_change_is_begun_when_the_journal_cannot_be_written(node: Bench) -> None:
    node.journal.path.with_suffix(".tmp").mkdir()
    with pytest.raises(JournalInTheWay, match=r"relayout\.json cannot be used: Is a directory.*--state"):
        node.apply()
    assert node.layouts() == OLD
