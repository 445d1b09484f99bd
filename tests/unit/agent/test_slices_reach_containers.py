"""A container reaches its slice by NVIDIA's runtime, or by device nodes and driver files in the CDI spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tessera.agent.cdi import CDIDirectory
from tessera.agent.claims import PrepareError
from tessera.agent.device_nodes import HostFiles
from tessera.agent.main import AgentSettings, BadSettings, host_files
from tessera.agent.transactions import Transactions
from tessera.gpu.driver import GPU
from tessera.gpu.simulator import control
from tessera.gpu.simulator.capabilities import minor

Workbench = Any
# What `nvidia-ctk cdi generate --device-id=none` writes, shortened (nvidia-container-toolkit 1.19).
TOOLKIT_SPEC: dict[str, Any] = {
    "cdiVersion": "0.7.0",
    "kind": "nvidia.com/gpu",
    "devices": [{"name": "none", "containerEdits": {"env": ["NVCT_EMPTY_DEVICE="]}}],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/run/nvidia/driver/dev/nvidiactl"}],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["x"]}],
        "mounts": [{"hostPath": "/lib/libcuda.so.580", "containerPath": "/lib/libcuda.so.580"}],
    },
}
PLACE = ("3g.40gb", 4)


@pytest.fixture
def host(bench: Workbench) -> HostFiles:
    """The bench's agent writes device nodes; the host is the simulator's, with a spec of the toolkit."""
    files = HostFiles(control.publish_capabilities(bench.simulator), bench.directory / "cdi")
    files.cdi_directory.mkdir()
    write_toolkit_spec(files)
    bench.transactions = Transactions(
        driver=bench.driver,
        checkpoint=bench.checkpoint,
        cdi=CDIDirectory(files.cdi_directory, simulated=False, host=files),
        ledger=bench.checkpoint.load(),
    )
    return files


def write_toolkit_spec(host: HostFiles, name: str = "nvidia.yaml", **changes: Any) -> None:
    (host.cdi_directory / name).write_text(yaml.safe_dump({**TOOLKIT_SPEC, **changes}))


def written(bench: Workbench, claim: str = "a") -> Any:
    return json.loads((bench.directory / "cdi" / f"gpu.tessera.dev-claim-uid-{claim}.json").read_text())


def edits(bench: Workbench) -> Any:
    (device,) = written(bench)["devices"]
    return device["containerEdits"]


def capability(gpu: GPU, *, compute: bool) -> dict[str, Any]:
    (instance,) = gpu.instances
    number = minor(
        gpu=gpu.index, gpu_instance=instance.id, compute_instance=instance.compute[0].id if compute else None
    )
    path = f"/dev/nvidia-caps/nvidia-cap{number}"
    return {"path": path, "type": "c", "major": 234, "minor": number, "fileMode": 0o444}


def device(path: str, major: int, number: int) -> dict[str, Any]:
    return {"path": path, "type": "c", "major": major, "minor": number, "fileMode": 0o666}


async def test_simulated_slices_get_the_environment_only(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", PLACE))
    assert set(written(bench)) == {"cdiVersion", "kind", "annotations", "devices"}
    assert set(edits(bench)) == {"env"}


async def test_the_nodes_are_those_of_the_slice_its_gpu_and_the_driver(
    bench: Workbench, host: HostFiles
) -> None:
    await bench.transactions.prepare(bench.claim("a", PLACE, index=1))
    assert edits(bench)["deviceNodes"] == [
        device("/dev/nvidia-uvm", 511, 0),
        device("/dev/nvidia-uvm-tools", 511, 1),
        device("/dev/nvidia1", 195, 1),
        capability(bench.gpu(1), compute=False),
        capability(bench.gpu(1), compute=True),
    ]


async def test_the_nodes_of_a_shared_gpu_are_there_once(bench: Workbench, host: HostFiles) -> None:
    await bench.transactions.prepare(bench.claim("a", PLACE, ("1g.10gb", 0)))
    paths = [node["path"] for node in edits(bench)["deviceNodes"]]
    assert len(paths) == len(set(paths)) == 2 + 1 + 2 * 2


async def test_the_drivers_files_are_what_the_toolkit_says(bench: Workbench, host: HostFiles) -> None:
    await bench.transactions.prepare(bench.claim("a", PLACE))
    document = written(bench)
    assert document["containerEdits"] == TOOLKIT_SPEC["containerEdits"]
    assert (document["cdiVersion"], document["kind"]) == ("0.7.0", "gpu.tessera.dev/claim")


async def test_nvidias_runtime_is_told_to_keep_out(bench: Workbench, host: HostFiles) -> None:
    await bench.transactions.prepare(bench.claim("a", PLACE))
    uuid = bench.gpu().instances[0].compute[0].uuid
    variables = dict(text.split("=", 1) for text in edits(bench)["env"])
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert variables["CUDA_VISIBLE_DEVICES"] == variables["TESSERA_SLICE_UUID"] == uuid
    assert "TESSERA_SIMULATED" not in variables


async def test_control_nodes_that_the_toolkit_leaves_out_are_added(bench: Workbench, host: HostFiles) -> None:
    """The GPU operator's spec for its own containers has libraries and hooks only."""
    (host.cdi_directory / "nvidia.yaml").unlink()
    write_toolkit_spec(
        host,
        "management.nvidia.com-gpu.yaml",
        kind="management.nvidia.com/gpu",
        containerEdits={"mounts": []},
    )
    await bench.transactions.prepare(bench.claim("a", PLACE))
    assert edits(bench)["deviceNodes"][0] == device("/dev/nvidiactl", 195, 255)


async def test_the_annotated_record_comes_back_from_such_a_spec(bench: Workbench, host: HostFiles) -> None:
    record = await bench.transactions.prepare(bench.claim("a", PLACE))
    assert bench.cdi.records()[0].devices == record.devices


def remove_toolkit_spec(host: HostFiles) -> None:
    (host.cdi_directory / "nvidia.yaml").unlink()


def tear_toolkit_spec(host: HostFiles) -> None:
    (host.cdi_directory / "nvidia.yaml").write_text("cdiVersion: [")


def foreign_toolkit_spec(host: HostFiles) -> None:
    write_toolkit_spec(host, kind="example.com/gpu")


def no_edits_in_toolkit_spec(host: HostFiles) -> None:
    write_toolkit_spec(host, containerEdits={"deviceNodes": None})


def forget_gpus(host: HostFiles) -> None:
    for file in (host.root / "proc/driver/nvidia/gpus").glob("*/information"):
        file.unlink()


def unload_uvm(host: HostFiles) -> None:
    file = host.root / "proc/devices"
    text = file.read_text().replace("511 nvidia-uvm", "")
    file.unlink()
    file.write_text(text)


def hide_capabilities(host: HostFiles) -> None:
    (host.root / "proc/driver/nvidia/capabilities").rename(host.root / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (remove_toolkit_spec, "no CDI spec of nvidia-container-toolkit.*nvidia-ctk cdi generate"),
        (tear_toolkit_spec, "nvidia.yaml is no CDI spec .*ParserError.*nvidia-ctk cdi generate"),
        (foreign_toolkit_spec, "its kind is 'example.com/gpu'"),
        (no_edits_in_toolkit_spec, "nvidia.yaml is no CDI spec .*TypeError"),
        (forget_gpus, "no file .*information names GPU-.*--host-root"),
        (unload_uvm, "/proc/devices has no nvidia-uvm; load .* nvidia-modprobe"),
        (hide_capabilities, "gi[0-9]+/access cannot be read: No such file.*--host-root"),
    ],
)
async def test_a_file_that_is_missing_is_named_with_the_remedy(
    bench: Workbench, host: HostFiles, harm: Any, says: str
) -> None:
    record = await bench.transactions.prepare(bench.claim("a", PLACE))
    harm(host)
    with pytest.raises(OSError, match=says):
        CDIDirectory(host.cdi_directory, simulated=False, host=host).write(record)


async def test_a_slice_that_no_container_could_reach_is_not_kept(bench: Workbench, host: HostFiles) -> None:
    remove_toolkit_spec(host)
    with pytest.raises(PrepareError, match=r"claim default/a: .* no CDI spec of nvidia-container-toolkit"):
        await bench.transactions.prepare(bench.claim("a", PLACE))
    assert bench.layout() == []
    assert bench.checkpoint.load().claims == {}
    assert bench.cdi.claim_uids() == set()


async def test_a_look_at_the_node_goes_on_and_writes_the_spec_when_it_can(
    bench: Workbench, host: HostFiles
) -> None:
    """As after somebody emptied the directory that the runtime reads."""
    await bench.transactions.prepare(bench.claim("a", PLACE))
    bench.cdi.remove("uid-a")
    remove_toolkit_spec(host)
    await bench.transactions.refresh()
    assert bench.cdi.claim_uids() == set()
    with pytest.raises(
        PrepareError, match=r"a stays as it is on record: .*run on the host: nvidia-ctk"
    ) as told:
        await bench.transactions.prepare(bench.claim("a", PLACE))
    assert "make room" not in str(told.value)
    write_toolkit_spec(host)
    await bench.transactions.refresh()
    assert len(edits(bench)["deviceNodes"]) == 5


def settings(**changes: Any) -> AgentSettings:
    places: dict[str, Any] = {
        name: Path(f"/{name}") for name in ("kubelet_dir", "cdi_dir", "state_dir", "host_root")
    }
    return AgentSettings(node_name="a", **places, **changes)


def test_one_setting_chooses_the_way() -> None:
    assert host_files(settings()) is None
    assert host_files(settings(cdi_mode="device-nodes")) == HostFiles(Path("/host_root"), Path("/cdi_dir"))


def test_a_simulated_slice_has_no_device_nodes() -> None:
    with pytest.raises(BadSettings, match="a simulated slice has no device nodes"):
        host_files(settings(cdi_mode="device-nodes", simulate="H100-80GB"))
