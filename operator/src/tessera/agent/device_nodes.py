"""What a container needs to open a slice when NVIDIA's container runtime does not see to it.

A process that uses a slice opens the control nodes, the node of the GPU, and one capability node each for the
GPU instance and the compute instance; the driver tells their numbers below `/proc`. A GPU as a whole has no
capability nodes. What else CUDA needs (libraries, hooks that link them) depends on driver and distribution:
nvidia-container-toolkit knows it, and writes it into a CDI spec (`nvidia-ctk cdi generate`; the service
nvidia-cdi-refresh does so at each change of the driver), in the part that holds for all devices. That part is
read from its file each time and goes into our spec. NVIDIA's own DRA driver puts the same together, from the
toolkit's Go library (kubernetes-sigs/dra-driver-nvidia-gpu, cmd/gpu-kubelet-plugin/cdi.go).

Nodes are given by their numbers, so that the runtime makes them: the host need not have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tessera.agent.checkpoint import Slice

TOOLKIT_SPECS = ("nvidia.yaml", "nvidia.json", "management.nvidia.com-gpu.yaml")
"""Files of the toolkit, the best first: of nvidia-cdi-refresh (or by hand), and of the GPU operator."""
_VENDORS = ("nvidia.com/", "management.nvidia.com/")
_EVERYONE = 0o666
_NOT_CHARACTER_DEVICES = "Block devices:"


class DriverFilesMissing(OSError):
    """A file of the driver or of nvidia-container-toolkit is not there or not as expected.

    An `OSError`, because whoever prepares a claim can do no more about it than about any other file.
    """


@dataclass(frozen=True, slots=True)
class ToolkitSpec:
    """What the toolkit's spec says of all devices: its CDI version, its `containerEdits`, and which device
    nodes are among these, by path.
    """

    version: str
    edits: Mapping[str, Any]
    node_paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class HostFiles:
    """The files of the host that say how a slice is reached. Each method raises `DriverFilesMissing`.

    `root` is the directory that has the host's `/proc/devices` and `/proc/driver/nvidia`.
    """

    root: Path
    cdi_directory: Path

    def toolkit_spec(self) -> ToolkitSpec:
        """The spec that nvidia-container-toolkit has written for this host."""
        candidates = [self.cdi_directory / name for name in TOOLKIT_SPECS]
        for path in candidates:
            if path.exists():
                return _toolkit_spec(path)
        raise DriverFilesMissing(
            f"{self.cdi_directory} has no CDI spec of nvidia-container-toolkit ({', '.join(TOOLKIT_SPECS)}); "
            f"run on the host: nvidia-ctk cdi generate --device-id=none --output={candidates[0]}"
        )

    def device_nodes(self, slices: Iterable[Slice]) -> list[dict[str, Any]]:
        """The nodes for these slices as CDI's `deviceNodes`, control nodes first."""
        devices = self._read("proc/devices")
        gpu_major, uvm_major = _major(devices, "nvidia", "nvidia-frontend"), _major(devices, "nvidia-uvm")
        nodes = [
            _node("/dev/nvidiactl", gpu_major, 255),
            _node("/dev/nvidia-uvm", uvm_major, 0),
            _node("/dev/nvidia-uvm-tools", uvm_major, 1),
        ]
        for made in slices:
            gpu = self._gpu_minor(made.gpu_uuid)
            instance = f"proc/driver/nvidia/capabilities/gpu{gpu}/mig/gi{made.gpu_instance_id}"
            nodes.append(_node(f"/dev/nvidia{gpu}", gpu_major, gpu))
            if made.is_whole_gpu:
                continue
            nodes += [
                self._capability_node(f"{path}/access", _major(devices, "nvidia-caps"))
                for path in (instance, f"{instance}/ci{made.compute_instance_id}")
            ]
        return list({node["path"]: node for node in nodes}.values())

    def _gpu_minor(self, uuid: str) -> int:
        files = "proc/driver/nvidia/gpus/*/information"
        for path in sorted(self.root.glob(files)):
            fields = _fields(self._read(str(path.relative_to(self.root))))
            if fields.get("GPU UUID") == uuid:
                return _number(fields, "Device Minor", path)
        raise DriverFilesMissing(
            f"no file {self.root / files} names {uuid}; look whether --host-root has the host's /proc"
        )

    def _capability_node(self, file: str, major: int) -> dict[str, Any]:
        fields = _fields(self._read(file))
        minor = _number(fields, "DeviceFileMinor", self.root / file)
        mode = _number(fields, "DeviceFileMode", self.root / file)
        return _node(f"/dev/nvidia-caps/nvidia-cap{minor}", major, minor, mode)

    def _read(self, file: str) -> str:
        path = self.root / file
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise DriverFilesMissing(
                f"{path} cannot be read: {why}; look whether --host-root has the host's /proc"
            ) from error


def _toolkit_spec(path: Path) -> ToolkitSpec:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind, version, edits = document["kind"], str(document["cdiVersion"]), dict(document["containerEdits"])
        _version(version)
        paths = frozenset(node["path"] for node in edits.get("deviceNodes", ()))
        if str(kind).startswith(_VENDORS):
            return ToolkitSpec(version=version, edits=edits, node_paths=paths)
        why = f"its kind is {kind!r}"
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
    raise DriverFilesMissing(
        f"{path} is no CDI spec of nvidia-container-toolkit ({why}); write it anew: nvidia-ctk cdi generate"
    )


def _version(text: str) -> tuple[int, ...]:
    """Raises `ValueError` where it is no version."""
    return tuple(int(part) for part in text.split("."))


def newer_version(one: str, other: str) -> str:
    """The newer of two CDI versions such as 0.6.0."""
    return max(one, other, key=_version)


def _node(path: str, major: int, minor: int, mode: int = _EVERYONE) -> dict[str, Any]:
    return {"path": path, "type": "c", "major": major, "minor": minor, "fileMode": mode}


def _major(devices: str, *names: str) -> int:
    """The major number of the character device with one of these names (drivers before 550 had another)."""
    character_devices = devices.partition(_NOT_CHARACTER_DEVICES)[0]
    for name in names:
        found = re.search(rf"^ *(\d+) {name}$", character_devices, re.MULTILINE)
        if found is not None:
            return int(found[1])
    raise DriverFilesMissing(
        f"/proc/devices has no {names[0]}; load the driver's modules on the host: nvidia-modprobe -u"
    )


def _fields(text: str) -> dict[str, str]:
    """The lines `Name: value` of a file below `/proc/driver/nvidia`."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _number(fields: Mapping[str, str], name: str, path: Path) -> int:
    value = fields.get(name, "")
    if not value.isdecimal():
        raise DriverFilesMissing(f"{path} has no number {name}; is this driver's format known?")
    return int(value)
