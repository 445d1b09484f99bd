"""What the Dockerfile promises about the images, read from the file and from the pinned requirements."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from functools import cache

import pytest
from tessera.local.images import checkout_directory

ROOT = checkout_directory()
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


@cache
def pins(name: str) -> dict[str, set[str]]:
    """Package -> the versions that a requirements file pins (one per Python version where they differ)."""
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall((ROOT / "requirements" / f"{name}.txt").read_text()):
        found.setdefault(package, set()).add(version)
    return found


def final_stage(name: str) -> str:
    dockerfile = (ROOT / "Dockerfile").read_text()
    match = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", dockerfile, re.DOTALL | re.MULTILINE)
    assert match is not None, name
    return match[1]


@pytest.mark.parametrize("name", ["operator", "worker", "build"])
def test_the_requirements_agree_with_the_lock(name: str) -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {(package["name"], package["version"]) for package in lock["package"]}
    assert pins(name)
    for package, versions in pins(name).items():
        for version in versions:
            assert (package, version) in locked, f"{package} {version}: run `make generate`"


@pytest.mark.parametrize("name", ["operator", "worker", "build"])
def test_every_requirement_has_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_every_direct_dependency_of_the_operator_is_in_its_image() -> None:
    project = tomllib.loads((ROOT / "operator" / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.split(r"[<>=\[ ;]", requirement)[0] in pins("operator"), requirement


def test_the_operator_image_has_no_training_libraries_and_no_test_tools() -> None:
    unwanted = {
        "torch",
        "flwr",
        "numpy",
        "scikit-image",
        "scikit-learn",
        "pytest",
        "hypothesis",
        "mypy",
        "ruff",
    }
    assert not unwanted & set(pins("operator"))
    assert "torch" in pins("worker")


def test_every_direct_dependency_of_the_worker_is_used_by_it() -> None:
    """Each costs its megabytes in every pull of the image. A package may be there for its data only."""
    project = tomllib.loads((ROOT / "workloads" / "pyproject.toml").read_text())["project"]
    sources = "\n".join(path.read_text() for path in (ROOT / "workloads" / "src").rglob("*.py"))
    used = set(re.findall(r"^\s*(?:import|from) (\w+)", sources, re.MULTILINE))
    used |= set(re.findall(r'find_spec\("(\w+)"\)', sources))
    owners = importlib.metadata.packages_distributions()
    needed = {owner.replace("_", "-").lower() for module in used for owner in owners.get(module, ())}
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[ ;]", requirement)[0]
        assert name in needed, f"nothing uses {name}"


@pytest.mark.parametrize("name", ["operator", "worker", "worker-local"])
def test_images_run_without_rights(name: str) -> None:
    assert "USER 65532:65532" in final_stage("runtime")
    assert "USER" not in final_stage(name)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(rf"^FROM runtime AS {name}$", dockerfile, re.MULTILINE)


def test_images_do_not_import_from_the_working_directory_and_write_no_bytecode() -> None:
    assert "PYTHONSAFEPATH=1" in final_stage("runtime")
    assert "PYTHONDONTWRITEBYTECODE=1" in final_stage("runtime")


def test_the_last_stage_is_the_operator() -> None:
    """`docker build .` without a target makes the image that people look for first."""
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert stages[-1] == "operator"
