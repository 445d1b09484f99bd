"""Capability files: the published minor numbers, and a tree that follows the instances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pynvml
import pytest
from tessera.gpu.simulator import control
from tessera.gpu.simulator.capabilities import minor, minors_file
from unit.gpu.mig_calls import create_compute, create_two


def files(directory: Path) -> set[str]:
    return {str(item.relative_to(directory)) for item in directory.rglob("*") if item.is_file()}


@pytest.mark.parametrize(
    ("line", "number"),
    [  # NVIDIA's MIG User Guide, device nodes and capabilities
        ("config", 1),
        ("monitor", 2),
        ("gpu0/gi0/access", 3),
        ("gpu0/gi0/ci0/access", 4),
        ("gpu0/gi0/ci1/access", 5),
        ("gpu0/gi0/ci2/access", 6),
        ("gpu0/gi1/access", 12),
        ("gpu0/gi2/access", 21),
        ("gpu0/gi2/ci0/access", 22),
        ("gpu1/gi0/access", 138),
        ("gpu31/gi14/ci7/access", 4322),
    ],
)
def test_every_possible_instance_has_its_published_minor_number(line: str, number: int) -> None:
    assert f"{line} {number}" in minors_file().splitlines()


def test_no_two_capabilities_share_a_minor_number() -> None:
    numbers = [int(line.split()[1]) for line in minors_file().splitlines()]
    assert sorted(numbers) == list(range(1, 2 + 32 * 15 * 9 + 1))


@pytest.mark.parametrize(("gpu", "instance", "compute"), [(32, 0, 0), (0, 15, 0), (0, 0, 8), (0, -1, 0)])
def test_ids_that_the_driver_cannot_give_have_no_minor_number(gpu: int, instance: int, compute: int) -> None:
    with pytest.raises(ValueError, match="no capability for GPU"):
        minor(gpu=gpu, gpu_instance=instance, compute_instance=compute)


def test_capability_files_and_device_nodes_follow_the_instances(bind: Any, node_directory: Path) -> None:
    bind(count=2)
    gpu = pynvml.nvmlDeviceGetHandleByIndex(1)
    pynvml.nvmlDeviceSetMigMode(gpu, 1)
    first = create_two(gpu, 0)
    root = control.publish_capabilities(node_directory)
    second = create_two(gpu, 2)
    compute = create_compute(second)
    ids = [pynvml.nvmlGpuInstanceGetInfo(item).id for item in (first, second)]
    capabilities, nodes = root / "proc/driver/nvidia/capabilities", root / "dev/nvidia-caps"
    always = {"mig/config", "mig/monitor"}
    paths = [f"gpu1/mig/gi{number}/access" for number in ids]
    inner = f"gpu1/mig/gi{ids[1]}/ci0/access"
    minors = [3 + 135 + 9 * number for number in ids]
    assert files(capabilities) == {*always, *paths, inner}
    assert files(nodes) == {f"nvidia-cap{number}" for number in (1, 2, *minors, minors[1] + 1)}
    assert f"DeviceFileMinor: {minors[1] + 1}\n" in (capabilities / inner).read_text()
    assert (root / "proc/driver/nvidia-caps/mig-minors").read_text() == minors_file()
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(second)
    assert files(capabilities) == {*always, paths[0]}
    assert files(nodes) == {f"nvidia-cap{number}" for number in (1, 2, minors[0])}
    control.reboot(node_directory)
    assert files(capabilities) == always


def test_only_the_owner_reads_mig_config_and_everyone_mig_monitor(gpu: Any, node_directory: Path) -> None:
    root = control.publish_capabilities(node_directory) / "proc/driver/nvidia/capabilities/mig"
    modes = {name: (root / name).stat().st_mode & 0o777 for name in ("config", "monitor")}
    assert modes == {"config": 0o400, "monitor": 0o444}


def test_files_left_behind_by_a_killed_process_are_put_right_at_the_next_change(
    gpu: Any, node_directory: Path
) -> None:
    root = control.publish_capabilities(node_directory) / "proc/driver/nvidia/capabilities"
    stale = root / "gpu0/mig/gi9/access"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (root / "mig/config").unlink()
    (root / "mig/config").write_text("Dev")
    number = pynvml.nvmlGpuInstanceGetInfo(create_two(gpu, 0)).id
    expected = {"mig/config", "mig/monitor", f"gpu0/mig/gi{number}/access"}
    assert files(root) == expected | ({"gpu0/mig/gi9/access"} if number == 9 else set())
    assert "DeviceFileMinor: 1\n" in (root / "mig/config").read_text()


def test_the_driver_tells_the_minor_number_of_each_gpu_and_the_major_numbers(
    bind: Any, node_directory: Path
) -> None:
    bind(count=2)
    uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(1))
    proc = control.publish_capabilities(node_directory) / "proc"
    (told,) = [
        text
        for file in (proc / "driver/nvidia/gpus").glob("*/information")
        if uuid in (text := file.read_text())
    ]
    assert "Device Minor: \t 1\n" in told
    assert "\n195 nvidia\n" in (proc / "devices").read_text()


def test_without_being_asked_for_no_tree_is_written(gpu: Any, node_directory: Path) -> None:
    create_two(gpu, 0)
    assert not (node_directory / "root").exists()
