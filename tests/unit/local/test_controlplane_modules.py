"""What `versions.py` and `build.py` say about the binaries agrees with the modules that pin them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tessera.local.build import PROGRAMS, batches_of, cache_key, can_build, source_directory
from tessera.local.versions import KIND_NODE_IMAGE, KIND_VERSION, KUBERNETES_VERSION, MINIMUM_GO_VERSION

SOURCES = source_directory()


def test_the_version_constant_is_the_pinned_one() -> None:
    pinned = (SOURCES / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{KUBERNETES_VERSION}\n" in pinned


def test_the_kind_node_has_the_minor_version_of_the_modules() -> None:
    minor = KUBERNETES_VERSION.rpartition(".")[0]
    assert f"kindest/node:v{minor}." in KIND_NODE_IMAGE


def test_the_workflow_installs_the_kind_that_the_node_image_belongs_to() -> None:
    workflow = (SOURCES.parents[1] / ".github" / "workflows" / "ci.yaml").read_text()
    assert f"sigs.k8s.io/kind@v{KIND_VERSION} " in workflow


def test_no_module_needs_a_newer_go_than_we_say() -> None:
    for path in SOURCES.glob("*/go.mod"):
        wanted = re.search(r"^go (\d+)\.(\d+)", path.read_text(), re.MULTILINE)
        assert wanted and (int(wanted[1]), int(wanted[2])) <= MINIMUM_GO_VERSION, path


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_every_program_is_pinned_in_its_module(name: str) -> None:
    program = PROGRAMS[name]
    directory = SOURCES / program.module
    assert f'_ "{program.package}"' in (directory / "tools.go").read_text()
    assert (directory / "go.sum").exists()


def test_the_cache_key_changes_with_everything_that_shapes_a_binary(tmp_path: Path) -> None:
    module = tmp_path / "etcd"
    module.mkdir()
    keys = []
    for content, go in (("one", "go1.26.8"), ("two", "go1.26.8"), ("two", "go1.26.9")):
        (module / "go.sum").write_text(content)
        keys.append(cache_key(sources=tmp_path, go_version=go))
    assert len(set(keys)) == 3
    assert cache_key(sources=tmp_path, go_version="go1.26.9") == keys[-1]


@pytest.mark.parametrize(
    ("version", "usable"),
    [("go1.26.8", True), ("go1.21.0", True), ("go1.19.8", False), ("devel", False), ("", False)],
)
def test_go_is_usable_when_it_can_fetch_the_toolchain_it_lacks(version: str, usable: bool) -> None:
    assert can_build(version) is usable


def test_programs_of_one_module_are_built_together() -> None:
    batches = batches_of(PROGRAMS)
    assert sorted(name for batch in batches for name in batch) == sorted(PROGRAMS)
    for batch in batches:
        assert len({PROGRAMS[name].module for name in batch}) == 1
        assert len({PROGRAMS[name].linker_flags for name in batch}) == 1
    assert len(batches) == len({program.module for program in PROGRAMS.values()})


@pytest.mark.parametrize(
    ("name", "built"), [("etcd", "server"), ("helm", "helm"), ("kubelet", "kubelet"), ("bridge", "bridge")]
)
def test_a_binary_is_found_under_the_name_that_go_gives_it(name: str, built: str) -> None:
    assert PROGRAMS[name].built_name == built
