"""The libraries of the workers, on this machine's disk instead of in an image.

With torch and its CUDA libraries a worker image has 5 GB: minutes to build, to export and to import, on
every change of the lock. uv has the same files in its cache already. So a local cluster lets uv lay them
out once, as hard links where the file system allows, and mounts that directory read-only into the training
pods, which run the thin image. On a real cluster the image `worker` of the Dockerfile carries everything;
the packages and their hashes are the same.

The directory belongs to the interpreter of the image (CPython 3.11), not to the one that runs this.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tessera.local.errors import LocalClusterError, MissingToolError, last_lines
from tessera.local.images import checkout_directory
from tessera.local.locks import exclusive
from tessera.local.progress import Progress

IMAGE_PYTHON = (3, 11)
"""The interpreter of the local worker image; both bases (Debian bookworm, python:3.11) have it."""

IMAGE_GLIBC = "2_36"
"""glibc of Debian bookworm, on which both bases are built."""

MOUNT_PATH = "/opt/tessera-worker"
"""Where training pods see the directory (the chart's `worker.localEnvironmentPath` names the host's path)."""

KEPT_ENVIRONMENTS = 2
"""How many stay in the cache, the newest ones; hard links make the second almost free."""


def build_worker_environment(*, progress: Progress) -> Path:
    """Lays out the libraries unless they are there, and returns the directory to mount at `MOUNT_PATH`.

    Raises:
        MissingToolError: there is no uv.
        LocalClusterError: uv could not install a package; the message quotes the end of its output.
    """
    requirements = checkout_directory() / "requirements" / "worker.txt"
    machine = platform.machine()
    cache = cache_directory()
    directory = cache / environment_hash(requirements=requirements.read_bytes(), machine=machine)
    with exclusive(cache / "lock", waiting_for="another process that lays out libraries", progress=progress):
        if directory.is_dir():
            directory.touch()
            return directory
        for half_made in cache.glob("*.partial"):
            shutil.rmtree(half_made)
        unfinished = directory.with_suffix(".partial")
        with progress.step("laying out the workers' libraries (torch among them; once for each lock file)"):
            _install(requirements, into=unfinished / "site-packages", machine=machine, log=cache / "uv.log")
        if sys.version_info[:2] == IMAGE_PYTHON:
            with progress.step("compiling them to bytecode, since pods mount them read-only"):
                _compile(unfinished / "site-packages")
        unfinished.rename(directory)
        _forget_old_environments(cache)
    return directory


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/tessera/worker-env` or `~/.cache/tessera/worker-env`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tessera" / "worker-env"


def environment_hash(*, requirements: bytes, machine: str) -> str:
    """What the directory is named after: the pinned packages, the processor and the interpreter."""
    digest = hashlib.sha256(requirements)
    digest.update(f"{machine} {IMAGE_PYTHON} {IMAGE_GLIBC}".encode())
    return digest.hexdigest()[:12]


def _install(requirements: Path, *, into: Path, machine: str, log: Path) -> None:
    # `uv run` names its own binary in UV, which need not be on PATH.
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise MissingToolError(
            "uv is needed to lay out the workers' libraries: run `make demo`, which installs it"
        )
    python = ".".join(map(str, IMAGE_PYTHON))
    command = [uv, "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    command += ["--python", sys.executable, "--python-version", python]
    command += ["--python-platform", f"{machine}-manylinux_{IMAGE_GLIBC}", "--target", str(into)]
    with log.open("w") as output:
        done = subprocess.run(
            [*command, "--requirement", str(requirements)], stdout=output, stderr=output, check=False
        )
    if done.returncode != 0:
        raise LocalClusterError(
            f"uv could not lay out the workers' libraries; the end of {log}:\n{last_lines(log)}\n"
            "check that this machine reaches its package index and has 6 GB of free disk"
        )


def _compile(directory: Path) -> None:
    """Bytecode that is never checked against the sources, because nobody edits those; without their tests.

    A few files are not for this interpreter (templates, remnants of Python 2) and do not compile. Python will
    say so if somebody ever imports one, so the exit status is not looked at.
    """
    command = [sys.executable, "-m", "compileall", "-qq", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    quiet = subprocess.DEVNULL
    subprocess.run([*command, "-x", "/tests/", str(directory)], stdout=quiet, stderr=quiet, check=False)


def _forget_old_environments(cache: Path) -> None:
    environments = [path for path in cache.iterdir() if path.is_dir()]
    for path in sorted(environments, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_ENVIRONMENTS:]:
        shutil.rmtree(path)
