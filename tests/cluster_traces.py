"""What is left on this machine of a local cluster: nothing, once it is down."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tessera.local.host import can_have_node
from tessera.local.network import hardware_address
from tessera.local.processes import find
from tessera.local.state import Identity

REAL_NODE = can_have_node()


def traces(identity: Identity, directory: Path) -> list[str]:
    """Everything on this machine that belongs, or leads, to the cluster."""
    found = [f"process {process.role} {process.pid}" for process in find(identity=identity)]
    found += [f"mount {line}" for line in _lines("/proc/self/mountinfo") if f"{directory}/" in line]
    found += [f"socket {line}" for line in _lines("/proc/net/unix") if f"{directory}/" in line]
    found += [f"cgroup {path}" for path in directories_called(identity.short, below=Path("/sys/fs/cgroup"))]
    found += [f"directory {directory}"] if directory.exists() else []
    if not REAL_NODE:
        return found
    links = _output("ip", "-o", "link")
    found += [f"interface {line}" for line in links if hardware_address(identity) in line]
    found += [f"rule {line}" for line in _output("iptables-save") if identity.uid in line]
    for pid in Path("/proc").glob("[0-9]*"):
        try:
            if f"{directory}/" in (pid / "mountinfo").read_text():
                found.append(f"mount namespace of process {pid.name} ({(pid / 'comm').read_text().strip()})")
        except OSError:
            continue
    return found


def directories_called(name: str, *, below: Path) -> list[Path]:
    """Those of that name in a tree in which others make and remove directories meanwhile."""
    return [Path(path, name) for path, names, _ in os.walk(below) if name in names]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _output(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
