"""What a real node needs from the machine itself: runc, iptables, ip, mount tools and a static busybox.

These are the only parts that are not built from source here. As root on Debian or Ubuntu the missing ones are
installed; elsewhere the error names the programs and the packages that carry them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tessera.local.errors import LocalClusterError, MissingToolError
from tessera.local.progress import Progress

# Program -> Debian package. A user's PATH often lacks the sbin directories, so they are searched too.
NODE_TOOLS = {
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "busybox": "busybox-static",
}
SEARCH_PATH = os.pathsep.join(
    [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/sbin", "/usr/sbin", "/sbin"]
)


def find_tool(name: str) -> Path:
    """The path of a program of this machine.

    Raises:
        MissingToolError: it is not installed.
    """
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        package = NODE_TOOLS.get(name, name)
        raise MissingToolError(
            f"{name} is not installed: install it (Debian and Ubuntu: apt-get install {package})"
        )
    return Path(found)


def missing_tools() -> list[str]:
    """The programs of `NODE_TOOLS` that this machine lacks."""
    return [name for name in NODE_TOOLS if shutil.which(name, path=SEARCH_PATH) is None]


def ensure_node_tools(*, progress: Progress) -> None:
    """Installs what is missing with apt-get, where there is one.

    Raises:
        MissingToolError: no apt-get, or it failed; names what is missing.
    """
    missing = missing_tools()
    if not missing:
        return
    packages = sorted({NODE_TOOLS[name] for name in missing})
    remedy = f"a real node needs {', '.join(missing)}: install the packages {' '.join(packages)}"
    apt = shutil.which("apt-get", path=SEARCH_PATH)
    if apt is None:
        raise MissingToolError(
            f"{remedy} (this machine has no apt-get), or use `--nodes N` for simulated nodes"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with progress.step(f"installing {' '.join(packages)} with apt-get"):
        install = [apt, "install", "-y", "--no-install-recommends", *packages]
        done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:  # Perhaps only because the package lists are old or absent.
            subprocess.run([apt, "update"], env=environment, capture_output=True, check=False)
            done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0 or missing_tools():
        raise MissingToolError(f"{remedy}; apt-get says: {done.stderr.strip()[-500:]}")


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
