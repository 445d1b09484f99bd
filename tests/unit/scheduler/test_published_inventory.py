"""ResourceSlices -> GPUs: complete generations only, malformed GPUs left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tessera.scheduler.inventory import Inventory
from tessera.scheduler.published import InventoryReader

Publish = Callable[..., list[dict[str, Any]]]


def read_inventory(slices: list[dict[str, Any]]) -> Inventory:
    return InventoryReader().read(slices)


def test_gpus_devices_and_geometry_are_read(publish: Publish) -> None:
    inventory = read_inventory(publish("node-a", ["gpu-aaaaaaaa", "gpu-bbbbbbbb"]))
    assert [gpu.name for gpu in inventory.gpus] == ["node-a/gpu-aaaaaaaa", "node-a/gpu-bbbbbbbb"]
    first, second = inventory.gpus
    assert first.geometry is second.geometry
    assert first.geometry.memory_slices == 8
    assert first.geometry.compute_slices == 7
    assert len(first.devices) == 25
    device = inventory.device("node-a", "gpu-bbbbbbbb-1g-10gb-me-3")
    assert device is not None
    legal = second.geometry.placements[device.index]
    assert (legal.profile, legal.start, legal.width, legal.exclusive) == (
        "1g.10gb+me",
        3,
        1,
        ("media-extensions",),
    )
    assert device.view.capacity["gpu.tessera.dev", "memory"] == 9984 * 2**20


def test_ten_gpus_span_several_slices(publish: Publish) -> None:
    slices = publish("node-a", [f"gpu-{i:08x}" for i in range(10)])
    assert len(slices) > 4
    assert len(read_inventory(slices).gpus) == 10


def test_only_the_newest_generation_counts_and_only_when_complete(publish: Publish) -> None:
    old = publish("node-a", ["gpu-aaaaaaaa"], generation=1)
    new = publish("node-a", ["gpu-bbbbbbbb"], generation=2)
    assert [g.name for g in read_inventory(old + new).gpus] == ["node-a/gpu-bbbbbbbb"]
    assert read_inventory(old + new[:1]).gpus == ()


def test_other_drivers_are_ignored(publish: Publish) -> None:
    slices = publish("node-a", ["gpu-aaaaaaaa"])
    for obj in slices:
        obj["spec"]["driver"] = "gpu.nvidia.com"
    assert read_inventory(slices).gpus == ()


def test_a_gpu_whose_counters_disagree_with_its_attributes_is_left_out(
    publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    slices = publish("node-a", ["gpu-aaaaaaaa", "gpu-bbbbbbbb"])
    device = slices[1]["spec"]["devices"][0]
    device["attributes"]["start"] = {"int": 5}
    assert [g.name for g in read_inventory(slices).gpus] == ["node-a/gpu-bbbbbbbb"]
    assert "gpu-aaaaaaaa" in caplog.text
    assert "disagree" in caplog.text


def test_a_gpu_without_an_attribute_is_left_out(publish: Publish) -> None:
    slices = publish("node-a", ["gpu-aaaaaaaa"])
    del slices[1]["spec"]["devices"][3]["attributes"]["profile"]
    assert read_inventory(slices).gpus == ()


def test_only_changed_pools_are_read_again(publish: Publish) -> None:
    reader = InventoryReader()
    slices = publish("node-a", ["gpu-aaaaaaaa"]) + publish("node-b", ["gpu-bbbbbbbb"])
    first = reader.read(slices)
    assert reader.read(slices) is first
    later = publish("node-b", ["gpu-bbbbbbbb", "gpu-cccccccc"], generation=2)
    second = reader.read(slices[:2] + later)
    assert second is not first
    assert [g.name for g in second.gpus] == [
        "node-a/gpu-aaaaaaaa",
        "node-b/gpu-bbbbbbbb",
        "node-b/gpu-cccccccc",
    ]
    assert second.gpus[0] is first.gpus[0]
    assert reader.read(slices[:2]).gpus == first.gpus[:1]


def test_gpus_that_differ_in_uuid_and_index_only_are_of_one_kind(publish: Publish) -> None:
    taint = {"key": "gpu.tessera.dev/unhealthy", "value": "xid", "effect": "NoSchedule"}
    slices = publish("node-a", ["gpu-aaaaaaaa", "gpu-bbbbbbbb"])
    slices += publish("node-b", ["gpu-cccccccc"], taints=[taint])
    first, second, tainted = read_inventory(slices).gpus
    assert first.kind == second.kind != tainted.kind
