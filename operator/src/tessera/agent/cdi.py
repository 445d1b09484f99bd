"""CDI specs: how a claim's slice reaches the container.

For each prepared claim one file with one CDI device; the kubelet passes the device's name to the container
runtime, which adds the environment below to every container that uses the claim. A claim with several
devices lists them all, separated by commas, because the runtime keeps only the last value of a variable.
The annotations repeat the claim's record, so the specs are a second copy of the checkpoint.

Two ways lead from there to the slice. NVIDIA's container runtime reads `NVIDIA_VISIBLE_DEVICES` and does the
rest; or the spec itself has the device nodes and the driver's files (`device_nodes`), which any runtime with
CDI understands, and tells NVIDIA's to keep out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tessera.agent.checkpoint import ClaimRecord, DeviceRecord, Phase, Slice, write_atomically
from tessera.agent.claims import ClaimKey
from tessera.agent.device_nodes import HostFiles, ToolkitSpec, newer_version
from tessera.api.names import (
    DRIVER,
    ENV_SIMULATED,
    ENV_SLICE_MEMORY_BYTES,
    ENV_SLICE_PROFILE,
    ENV_SLICE_UUID,
    ENV_VISIBLE_DEVICES_CUDA,
    ENV_VISIBLE_DEVICES_NVIDIA,
)

log = logging.getLogger(__name__)

KIND = f"{DRIVER}/claim"
_RECORD = f"{DRIVER}/record"
_VERSION = "0.6.0"
_NOT_BY_RUNTIME = "void"
"""For NVIDIA's container runtime: do nothing for this container."""


def device_id(claim_uid: str) -> str:
    """The qualified name of the claim's CDI device."""
    return f"{KIND}={claim_uid}"


def environment(record: ClaimRecord, *, simulated: bool) -> dict[str, str]:
    """What the container sees."""
    uuids = ",".join(made.uuid for made in record.slices)
    variables = {
        ENV_VISIBLE_DEVICES_NVIDIA: uuids,
        ENV_VISIBLE_DEVICES_CUDA: uuids,
        ENV_SLICE_PROFILE: ",".join(device.profile for device in record.devices),
        ENV_SLICE_MEMORY_BYTES: ",".join(str(device.memory_bytes) for device in record.devices),
        ENV_SLICE_UUID: uuids,
    }
    if simulated:
        variables[ENV_SIMULATED] = "1"
    return variables


def spec(record: ClaimRecord, variables: Mapping[str, str]) -> dict[str, Any]:
    """The CDI document for a prepared claim."""
    return {
        "cdiVersion": _VERSION,
        "kind": KIND,
        "annotations": {_RECORD: json.dumps(asdict(record), sort_keys=True)},
        "devices": [{"name": record.key.uid, "containerEdits": {"env": _assignments(variables)}}],
    }


def spec_with_devices(
    record: ClaimRecord,
    variables: Mapping[str, str],
    *,
    toolkit: ToolkitSpec,
    nodes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The CDI document that needs nothing of NVIDIA's container runtime.

    A node that the toolkit's spec has stays as that says: it may be elsewhere on the host.
    """
    edits = {
        "env": _assignments({**variables, ENV_VISIBLE_DEVICES_NVIDIA: _NOT_BY_RUNTIME}),
        "deviceNodes": [node for node in nodes if node["path"] not in toolkit.node_paths],
    }
    return {
        **spec(record, variables),
        "cdiVersion": newer_version(_VERSION, toolkit.version),
        "devices": [{"name": record.key.uid, "containerEdits": edits}],
        "containerEdits": toolkit.edits,
    }


def _assignments(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


class CDIDirectory:
    """Our specs in the runtime's CDI directory.

    With `host` the specs have device nodes and driver files, for real slices; without it, the environment.
    """

    def __init__(self, directory: Path, *, simulated: bool, host: HostFiles | None = None) -> None:
        self._directory = directory
        self._simulated = simulated
        self._host = host

    def _path(self, claim_uid: str) -> Path:
        return self._directory / f"{DRIVER}-claim-{claim_uid}.json"

    def write(self, record: ClaimRecord) -> None:
        """Write the claim's spec. Raises `OSError`."""
        variables = environment(record, simulated=self._simulated)
        if self._host is None:
            document = spec(record, variables)
        else:
            nodes = self._host.device_nodes(record.slices)
            document = spec_with_devices(record, variables, toolkit=self._host.toolkit_spec(), nodes=nodes)
        self._directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(record.key.uid), json.dumps(document, indent=1))

    def remove(self, claim_uid: str) -> None:
        """Remove the claim's spec; harmless when there is none."""
        self._path(claim_uid).unlink(missing_ok=True)

    def exists(self, claim_uid: str) -> bool:
        """Whether the claim's spec is there."""
        return self._path(claim_uid).exists()

    def claim_uids(self) -> set[str]:
        """UIDs of all claims that have a spec."""
        prefix = f"{DRIVER}-claim-"
        return {path.stem.removeprefix(prefix) for path in self._directory.glob(f"{prefix}*.json")}

    def keep_only(self, claim_uids: Container[str]) -> None:
        """Remove the specs of all other claims, and what a killed writer left. Raises `OSError`."""
        for uid in self.claim_uids():
            if uid not in claim_uids:
                log.info("the CDI spec of claim %s belongs to no prepared claim and is removed", uid)
                self.remove(uid)
        for torn in self._directory.glob(f".{DRIVER}-claim-*.tmp"):
            torn.unlink(missing_ok=True)

    def records(self) -> list[ClaimRecord]:
        """The records written into the specs; an unreadable spec is left out and logged."""
        found: list[ClaimRecord] = []
        for uid in sorted(self.claim_uids()):
            try:
                document = json.loads(self._path(uid).read_text(encoding="utf-8"))
                found.append(_record(json.loads(document["annotations"][_RECORD])))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("CDI spec of claim %s cannot be read: %s", uid, error)
        return found


def _record(data: dict[str, Any]) -> ClaimRecord:
    return ClaimRecord(
        key=ClaimKey(**data["key"]),
        phase=Phase.PREPARED,
        devices=tuple(
            DeviceRecord(**{**item, "slice": Slice(**item["slice"]) if item["slice"] else None})
            for item in data["devices"]
        ),
    )
