"""Fetches the few programs that come from the distribution (buildah, runc, ...) when the machine lacks them.

On Debian and Ubuntu root may install them, and then we do, saying so; anywhere else the error names the
command and the package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from tessera.local.errors import LocalClusterError, MissingToolError
from tessera.local.progress import Progress

SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps administrators' commands, which are not on every PATH."""


def find_command(name: str) -> str | None:
    """The path of a command, looked for in the administrators' directories too."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_DIRECTORIES)


def ensure_commands(packages: Mapping[str, str], *, progress: Progress) -> None:
    """Installs the packages of the commands that are missing.

    Args:
        packages: command to Debian package, such as `{"buildah": "buildah"}`.
        progress: told what is installed, before it is.

    Raises:
        MissingToolError: commands are missing, and this is not root on Debian or Ubuntu.
        LocalClusterError: apt-get failed; the message quotes it.
    """
    missing = {package for command, package in packages.items() if find_command(command) is None}
    if missing:
        install_packages(sorted(missing), progress=progress)


def install_packages(packages: Sequence[str], *, progress: Progress) -> None:
    """Installs Debian packages.

    Raises:
        MissingToolError: this is not root on Debian or Ubuntu.
        LocalClusterError: apt-get failed; the message quotes it.
    """
    names = " ".join(packages)
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise MissingToolError(
            f"this machine lacks {names}: install them (Debian, Ubuntu: apt-get install {names})"
        )
    with progress.step(f"installing Debian packages: {names}"):
        # A fresh machine has no package lists, or lists that name files which are gone by now.
        _apt([apt, "update", "--quiet"], what="apt-get update")
        install = [apt, "install", "--yes", "--quiet", "--no-install-recommends", *packages]
        _apt(install, what=f"apt-get install {names}")


def _apt(command: list[str], *, what: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LocalClusterError(
            f"`{what}` failed; it says:\n{(done.stdout + done.stderr).strip()[-1500:]}\n"
            "check that this machine reaches its Debian mirror, or install the packages by hand"
        )
