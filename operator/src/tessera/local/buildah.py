"""Builds a Dockerfile as root without Docker: buildah, on a Debian base that mmdebstrap makes.

No image registry takes part. The base is the smallest Debian that has Python and its venv module; it is
kept in a storage of our own under the cache directory, with the layers of earlier builds, so that a build
after a change of our source takes seconds. Nothing is ever written to the system's container storage, and
no mount stays behind: what a killed build left is removed by the next.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tessera.local.debian_packages import ensure_commands, install_packages
from tessera.local.errors import LocalClusterError, last_lines
from tessera.local.progress import Progress

BASE_SUITE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3.11-venv")
BASE_OPTIONS = (
    "--variant=minbase",
    f"--include={','.join(BASE_PACKAGES)}",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
MIRROR_VARIABLE = "TESSERA_DEBIAN_MIRROR"

# Debian's archive keys are not on every Ubuntu; there the keyring is a package of its own.
PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
ARCHIVE_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def base_name() -> str:
    """The full name of the base image; it changes with the recipe, not with Debian's updates."""
    digest = hashlib.sha256(" ".join((BASE_SUITE, *BASE_OPTIONS)).encode()).hexdigest()
    return f"localhost/tessera/base:{BASE_SUITE}-{digest[:12]}"


@dataclass(frozen=True)
class Buildah:
    """buildah on a storage of our own; make it with `prepare`."""

    directory: Path
    driver: str

    @classmethod
    def prepare(cls, directory: Path, *, progress: Progress) -> Buildah:
        """Installs what is missing, picks the storage driver, and clears what a killed build left.

        Raises:
            MissingToolError: buildah or mmdebstrap is not there and cannot be installed.
        """
        ensure_commands(PACKAGES, progress=progress)
        directory.mkdir(parents=True, exist_ok=True)
        # A cache directory on an overlay file system (say, inside a container) cannot hold another overlay.
        overlay = cls(directory, "overlay")
        buildah = overlay if overlay._run("info").returncode == 0 else cls(directory, "vfs")
        buildah.clean()
        return buildah

    def has(self, image: str) -> bool:
        """Whether the storage holds `image`."""
        return self._run("inspect", "--type", "image", image).returncode == 0

    def ensure_base(self, *, progress: Progress) -> str:
        """Makes the Debian base unless the storage has it, and returns its name.

        Raises:
            LocalClusterError: mmdebstrap or buildah failed; the message quotes the end of its output.
        """
        name = base_name()
        if self.has(name):
            return name
        if not ARCHIVE_KEYRING.exists():
            install_packages(["debian-archive-keyring"], progress=progress)
        with (
            progress.step("making the Debian base image (once per machine)"),
            TemporaryDirectory(prefix="base-", dir=self.directory) as scratch,
        ):
            archive = Path(scratch) / "base.tar"
            mirror = [value] if (value := os.environ.get(MIRROR_VARIABLE)) else []
            command = ["mmdebstrap", "--quiet", *BASE_OPTIONS, BASE_SUITE, str(archive), *mirror]
            remedy = f"check that this machine reaches a Debian mirror, or name one in {MIRROR_VARIABLE}"
            self._logged("base", command, remedy=remedy)
            container = self._checked("from", "scratch")
            self._checked("add", container, str(archive), "/")
            self._checked("commit", "--rm", container, name)
        return name

    def build(
        self,
        *,
        context: Path,
        target: str,
        name: str,
        build_arguments: Mapping[str, str],
        secrets: Mapping[str, Path],
    ) -> None:
        """Builds one target of the Dockerfile in `context`.

        Raises:
            LocalClusterError: a step failed; the message quotes the end of the build's log.
        """
        options = [
            "--pull-never",
            "--layers",
            "--force-rm",
            "--network",
            "host",
            "--target",
            target,
            "--tag",
            name,
        ]
        for key, value in build_arguments.items():
            options += ["--build-arg", f"{key}={value}"]
        for key, path in secrets.items():
            options += ["--secret", f"id={key},src={path}"]
        remedy = "read the step above; a download that failed works when this machine's pip reaches its index"
        self._logged(target, [*self._command("bud"), *options, str(context)], remedy=remedy)

    def export(self, name: str, archive: Path) -> None:
        """Writes the image under its full name, uncompressed: compressing costs more time than it saves."""
        archive.unlink(missing_ok=True)
        self._checked("push", "--quiet", name, f"docker-archive:{archive}:{name}")

    def remove_others(self, name: str, *, keep: set[str]) -> None:
        """Forgets earlier images of the same repository, except those named in `keep`."""
        repository = name.rpartition(":")[0]
        listed = self._checked("images", "--noheading", "--format", "{{.Name}}:{{.Tag}}").split()
        for other in listed:
            if other.rpartition(":")[0] == repository and other != name and other not in keep:
                self._checked("rmi", other)

    def clean(self) -> None:
        """Removes working containers and every mount below the storage; harmless when there are none."""
        if self._checked("containers", "--quiet"):
            self._checked("rm", "--all")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4].replace("\\040", " ") for line in mounts]
        for point in sorted(points, reverse=True):
            if Path(point).is_relative_to(self.directory):
                subprocess.run(["umount", "--lazy", point], check=False)

    def _command(self, verb: str) -> list[str]:
        storage, state = self.directory / self.driver, self.directory / f"{self.driver}-run"
        options = ["--root", str(storage), "--runroot", str(state), "--storage-driver", self.driver]
        return ["buildah", *options, verb]

    @property
    def _environment(self) -> dict[str, str]:
        # chroot isolation needs neither a container runtime nor control groups of its own.
        return os.environ | {"BUILDAH_ISOLATION": "chroot"}

    def _run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._command(verb), *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)

    def _checked(self, verb: str, *arguments: str) -> str:
        done = self._run(verb, *arguments)
        if done.returncode != 0:
            raise LocalClusterError(
                f"`buildah {verb}` failed; it says:\n{done.stderr.strip()[-1500:]}\n"
                f"delete {self.directory} to start from nothing, if it does not pass by itself"
            )
        return done.stdout.strip()

    def _logged(self, what: str, command: list[str], *, remedy: str) -> None:
        log = self.directory / f"{what}.log"
        with log.open("w") as output:
            done = subprocess.run(command, env=self._environment, stdout=output, stderr=output, check=False)
        if done.returncode != 0:
            end = last_lines(log, count=25)
            raise LocalClusterError(f"building the image `{what}` failed; the end of {log}:\n{end}\n{remedy}")
