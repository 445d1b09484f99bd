"""`tessera top` as a user runs it, against objects that the real API server has accepted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tessera.kube.client import KubeClient
from tessera.kube.conditions import set_condition
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration

UUID = "GPU-1f3c9a2e-0000-0000-0000-000000000000"


def top(control_plane: ControlPlane, *arguments: str) -> str:
    command = [sys.executable, "-c", "from tessera.cli.main import main; main()", "top"]
    done = subprocess.run(
        [*command, "--kubeconfig", str(control_plane.kubeconfig), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def node(admin: KubeClient, namespace: str) -> Any:
    """A GPUNode with one slice in use by a claim of the namespace, gone after the test."""
    name = f"node-{namespace}"
    made = await admin.create(GPU_NODES, {"metadata": {"name": name}}, strict=True)
    instance = {
        "device": "gpu-1f3c9a2e-2g-20gb-4",
        "profile": "2g.20gb",
        "start": 4,
        "size": 2,
        "uuid": "MIG-1",
        "gpuInstanceId": 5,
        "computeInstanceId": 0,
        "state": "InUse",
        "claim": {"namespace": namespace, "name": "by-hand", "uid": "u"},
    }
    gpu = {
        "index": 0,
        "uuid": UUID,
        "model": "H100-80GB",
        "productName": "NVIDIA H100 80GB HBM3",
        "migMode": "Enabled",
        "memorySlices": 8,
        "computeSlices": 7,
        "healthy": True,
        "instances": [instance],
    }
    conditions = set_condition(
        [], type="Ready", status=True, reason="Published", message="all is well", generation=1
    )
    status = {"conditions": conditions, "driver": {"version": "580.65.06", "simulated": True}, "gpus": [gpu]}
    await admin.replace(GPU_NODES, made | {"status": status}, subresource="status", strict=True)
    yield name
    await admin.delete(GPU_NODES, name)


async def test_one_frame_as_text_as_data_and_as_a_picture(
    control_plane: ControlPlane, admin: KubeClient, namespace: str, node: str, tmp_path: Path
) -> None:
    await admin.create(
        HETEROGENEOUS_TRAINING_JOBS,
        {
            "metadata": {"name": "train", "namespace": namespace},
            "spec": {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "3g.40gb"}}},
        },
        strict=True,
    )
    text = top(control_plane, "--once", "-n", namespace)
    assert "2g.20gb" in text
    assert f"{namespace}/by-hand"[:10] in text
    assert f"{namespace}/trai"[:12] in text
    assert "Pending" in text
    data = json.loads(top(control_plane, "-o", "json", "-n", namespace))
    shown = next(found for found in data["nodes"] if found["name"] == node)
    assert shown["gpus"][0]["free_slices"] == 6
    assert shown["gpus"][0]["largest_free_profile"] == "4g.40gb"
    assert [job["name"] for job in data["jobs"]] == ["train"]
    picture = tmp_path / "top.svg"
    top(control_plane, "--svg", str(picture), "-n", namespace)
    assert "4g.40gb" in picture.read_text()
