"""Makes the images of a local cluster from this checkout, once for each state of the sources.

An image is named after a hash of everything that goes into it, so the name says whether it is there
already: the same sources never build twice, and a cluster never runs an image of other sources. Docker
builds where its daemon runs; elsewhere root builds the same Dockerfile with buildah on a Debian base
(`buildah.py`). Either way the result is an archive in the cache directory, which `Node.import_images`
loads into a cluster's containerd and `KindCluster.import_image` into a kind node. No registry takes part.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tessera.local.buildah import Buildah, base_name
from tessera.local.errors import LocalClusterError, MissingToolError, last_lines
from tessera.local.locks import exclusive
from tessera.local.package_index import build_secrets
from tessera.local.progress import Progress

DOCKER_BASE = "docker.io/library/python:3.11-slim-bookworm"
BASE_VARIABLE = "TESSERA_BASE_IMAGE"
"""Names another base for builds with Docker, say that of a company's mirror."""

KEPT_ARCHIVES = 3
"""How many archives of one image stay in the cache, the newest ones; each has 200 to 400 MB."""


@dataclass(frozen=True)
class Image:
    """An image in an archive, under its full name (`docker.io/tessera/operator:dev-<12 hex digits>`)."""

    name: str
    archive: Path


@dataclass(frozen=True)
class Recipe:
    """One target of the Dockerfile and the paths of the checkout that shape it."""

    target: str
    repository: str
    inputs: tuple[str, ...]


OPERATOR = Recipe(
    target="operator",
    repository="docker.io/tessera/operator",
    inputs=("Dockerfile", "requirements/build.txt", "requirements/operator.txt", "operator"),
)
WORKER_THIN = Recipe(
    target="worker-local",
    repository="docker.io/tessera/worker",
    inputs=("Dockerfile", "tools/worker-local", "workloads/src"),
)


def build_operator_image(*, progress: Progress) -> Image:
    """The image of operator, scheduler and agent.

    Raises:
        MissingToolError: neither a Docker daemon nor root (with buildah and mmdebstrap).
        LocalClusterError: the build failed, or tessera is not run from a checkout.
    """
    return _build(OPERATOR, progress=progress)


def build_worker_image_thin(*, progress: Progress) -> Image:
    """The workers' image without their libraries (see `worker_environment.py`), for local clusters only.

    Raises:
        MissingToolError: neither a Docker daemon nor root (with buildah and mmdebstrap).
        LocalClusterError: the build failed, or tessera is not run from a checkout.
    """
    return _build(WORKER_THIN, progress=progress)


def checkout_directory() -> Path:
    """The checkout that this package is imported from.

    Raises:
        LocalClusterError: the package was installed without its checkout.
    """
    for parent in Path(__file__).resolve().parents:
        if (parent / "Dockerfile").is_file() and (parent / "requirements").is_dir():
            return parent
    raise LocalClusterError(
        "the Dockerfile is not beside this installation of tessera: run `tessera local` from a checkout of "
        "the repository"
    )


def cache_directory() -> Path:
    """Where archives and layers are kept: `$XDG_CACHE_HOME/tessera/images` or `~/.cache/tessera/images`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tessera" / "images"


def input_hash(*, checkout: Path, inputs: Iterable[str], base: str) -> str:
    """A hash of the contents, names and executable bits of the inputs, and of the base's name."""
    digest = hashlib.sha256(base.encode())
    for entry in inputs:
        path = checkout / entry
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        for file in files:
            if "__pycache__" in file.parts or any(part.endswith(".egg-info") for part in file.parts):
                continue
            content = file.read_bytes()
            executable = os.access(file, os.X_OK)
            digest.update(f"\0{file.relative_to(checkout)}\0{executable}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


def docker_daemon_runs() -> bool:
    """Whether there is a `docker` command whose daemon answers."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        return subprocess.run([docker, "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _build(recipe: Recipe, *, progress: Progress) -> Image:
    with_docker = docker_daemon_runs()
    if not with_docker and os.geteuid() != 0:
        raise MissingToolError(
            f"building the image {recipe.repository} needs a running Docker daemon or root: start Docker, "
            "run this as root, or use KWOK nodes, which run no images"
        )
    checkout, cache = checkout_directory(), cache_directory()
    base = os.environ.get(BASE_VARIABLE, DOCKER_BASE) if with_docker else base_name()
    tag = f"dev-{input_hash(checkout=checkout, inputs=recipe.inputs, base=base)}"
    image = Image(f"{recipe.repository}:{tag}", cache / f"{recipe.target}-{tag}.tar")
    with exclusive(cache / "lock", waiting_for="another process that builds images", progress=progress):
        if image.archive.exists():
            # The newest by use, not by making: an image that a cluster runs is not the one to forget.
            image.archive.touch()
            return image
        unfinished = image.archive.with_suffix(f".{os.getpid()}.partial")
        try:
            if with_docker:
                _with_docker(
                    recipe, image, base=base, checkout=checkout, archive=unfinished, progress=progress
                )
            else:
                _with_buildah(recipe, image, checkout=checkout, archive=unfinished, progress=progress)
            unfinished.rename(image.archive)
        finally:
            unfinished.unlink(missing_ok=True)
        _forget_old_archives(recipe, cache=cache)
    return image


def _with_docker(
    recipe: Recipe, image: Image, *, base: str, checkout: Path, archive: Path, progress: Progress
) -> None:
    log = archive.parent / f"{recipe.target}.log"
    with progress.step(f"building image {image.name} with Docker"), build_secrets() as secrets:
        command = [
            "docker",
            "build",
            "--target",
            recipe.target,
            "--tag",
            image.name,
            "--build-arg",
            f"BASE={base}",
        ]
        for key, path in secrets.items():
            command += ["--secret", f"id={key},src={path}"]
        with log.open("w") as output:
            # Secrets need BuildKit, which older releases of Docker do not use unless told to.
            environment = os.environ | {"DOCKER_BUILDKIT": "1"}
            built = subprocess.run(
                [*command, str(checkout)], env=environment, stdout=output, stderr=output, check=False
            )
        if built.returncode != 0:
            end = last_lines(log, count=25)
            raise LocalClusterError(f"building the image `{recipe.target}` failed; the end of {log}:\n{end}")
        saved = subprocess.run(
            ["docker", "save", "--output", str(archive), image.name],
            capture_output=True,
            text=True,
            check=False,
        )
        if saved.returncode != 0:
            raise LocalClusterError(
                f"`docker save {image.name}` failed; it says:\n{saved.stderr.strip()[-1500:]}"
            )


def _with_buildah(recipe: Recipe, image: Image, *, checkout: Path, archive: Path, progress: Progress) -> None:
    buildah = Buildah.prepare(archive.parent / "buildah", progress=progress)
    try:
        base = buildah.ensure_base(progress=progress)
        with progress.step(f"building image {image.name} with buildah"), build_secrets() as secrets:
            buildah.build(
                context=checkout,
                target=recipe.target,
                name=image.name,
                build_arguments={"BASE": base},
                secrets=secrets,
            )
            buildah.export(image.name, archive)
        kept = {
            f"{recipe.repository}:{path.stem.removeprefix(recipe.target + '-')}"
            for path in _newest_archives(recipe, cache=archive.parent)
        }
        buildah.remove_others(image.name, keep=kept)
    finally:
        buildah.clean()


def _newest_archives(recipe: Recipe, *, cache: Path) -> list[Path]:
    """The archives of one image that are kept, newest first."""
    archives = sorted(
        cache.glob(f"{recipe.target}-dev-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    return archives[:KEPT_ARCHIVES]


def _forget_old_archives(recipe: Recipe, *, cache: Path) -> None:
    kept = _newest_archives(recipe, cache=cache)
    for path in cache.glob(f"{recipe.target}-dev-*.tar"):
        if path not in kept:
            path.unlink()
