"""What gives another manager of the GPUs away, and what to do about it."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.agent.coexistence import others

Object = dict[str, Any]


def node(labels: dict[str, str] | None = None, allocatable: dict[str, str] | None = None) -> Object:
    return {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": allocatable}}


def resource_slice(driver: str) -> Object:
    return {"metadata": {"name": f"n-{driver}-x7k"}, "spec": {"driver": driver, "nodeName": "n"}}


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"nvidia.com/gpu.deploy.mig-manager": "true"}, "label nvidia.com/gpu.deploy.mig-manager=true"),
        (
            {"nvidia.com/mig.config": "all-1g.10gb", "nvidia.com/mig.config.state": "success"},
            "labels nvidia.com/mig.config=all-1g.10gb and nvidia.com/mig.config.state=success",
        ),
    ],
)
def test_mig_manager_is_known_by_its_labels(labels: dict[str, str], found: str) -> None:
    (message,) = others(node(labels), [])
    assert message.startswith(f"NVIDIA's mig-manager ({found}); remove it")
    assert "kubectl label node n --overwrite nvidia.com/gpu.deploy.mig-manager=false" in message
    assert "nvidia.com/mig.config.state-" in message


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"nvidia.com/mig.config": "all-1g.10gb"},
        {
            "nvidia.com/gpu.deploy.mig-manager": "false",
            "nvidia.com/mig.config": "all-disabled",
            "nvidia.com/mig.config.state": "success",
        },
    ],
)
def test_a_wish_alone_and_what_a_removed_mig_manager_leaves_are_no_manager(labels: dict[str, str]) -> None:
    assert others(node(labels), []) == ()


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb"])
def test_the_device_plugin_is_known_by_what_it_offers(resource: str) -> None:
    (message,) = others(node(allocatable={"cpu": "8", resource: "7"}), [])
    assert message.startswith(f"NVIDIA's device plugin (allocatable {resource}=7); remove it")
    assert "nvidia.com/gpu.deploy.device-plugin=false" in message


def test_resources_of_a_plugin_that_is_gone_and_of_others_are_no_manager() -> None:
    amounts = {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "0", "example.com/gpu": "3"}
    assert others(node(allocatable=amounts), []) == ()


def test_the_dra_driver_is_known_by_its_slices() -> None:
    slices = [resource_slice("gpu.tessera.dev"), resource_slice("gpu.nvidia.com")]
    (message,) = others(node(), slices)
    assert message.startswith("NVIDIA's DRA driver (ResourceSlice n-gpu.nvidia.com-x7k)")
    assert "kubectl delete resourceslice n-gpu.nvidia.com-x7k" in message
    assert others(node(), slices[:1]) == ()


def test_all_of_them_are_named() -> None:
    everything = node({"nvidia.com/gpu.deploy.mig-manager": "true"}, {"nvidia.com/gpu": "2"})
    assert len(others(everything, [resource_slice("gpu.nvidia.com")])) == 3


def test_a_bare_node_is_ours() -> None:
    assert others({"metadata": {"name": "n"}}, []) == ()
