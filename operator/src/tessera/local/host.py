"""What a real node needs from the machine itself: runc, iptables, ip, mount tools and a static busybox.

These are the only parts that are not built from source here. As root on Debian or Ubuntu the missing ones are
installed; elsewhere the error names the programs and the packages that carry them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tessera.local.debian_packages import ensure_commands, find_command
from tessera.local.errors import LocalClusterError, MissingToolError
from tessera.local.progress import Progress

# Program -> Debian package.
NODE_TOOLS = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "busybox": "busybox-static",
}
# CAP_NET_ADMIN and CAP_SYS_ADMIN (linux/capability.h).
NODE_CAPABILITIES = (12, 21)


def can_have_node() -> bool:
    """Whether this process may make a real node: root, with the rights to mount and to make interfaces.

    Root inside a container usually lacks the latter two.
    """
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    effective = int(line.split()[1], 16)
    return os.geteuid() == 0 and all(effective >> capability & 1 for capability in NODE_CAPABILITIES)


def find_tool(name: str) -> Path:
    """The path of a program of this machine.

    Raises:
        MissingToolError: it is not installed.
    """
    found = find_command(name)
    if found is None:
        package = NODE_TOOLS.get(name, name)
        raise MissingToolError(
            f"{name} is not installed: install it (Debian and Ubuntu: apt-get install {package})"
        )
    return Path(found)


def ensure_node_tools(*, progress: Progress) -> None:
    """Installs what is missing, as root on Debian and Ubuntu.

    Raises:
        MissingToolError: something is missing and cannot be installed here; names it.
    """
    ensure_commands(NODE_TOOLS, progress=progress)


def run(
    command: Sequence[str | Path], *, input_bytes: bytes | None = None, timeout_seconds: float = 60
) -> str:
    """Runs a program of this machine and returns its standard output.

    Raises:
        LocalClusterError: it failed; quotes the command and its standard error.
    """
    arguments = [str(part) for part in command]
    try:
        done = subprocess.run(
            arguments, input=input_bytes, capture_output=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        raise LocalClusterError(
            f"`{' '.join(arguments)}` took longer than {timeout_seconds:.0f} s"
        ) from expired
    if done.returncode != 0:
        raise LocalClusterError(
            f"`{' '.join(arguments)}` failed: {done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout.decode(errors="replace")
