"""An image is named after what goes into it, so nothing that shapes it may be left out of the name."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest
from tessera.local.buildah import base_name
from tessera.local.images import OPERATOR, WORKER_THIN, Recipe, checkout_directory, input_hash


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "operator" / "src").mkdir(parents=True)
    (tmp_path / "operator" / "src" / "one.py").write_text("ONE = 1\n")
    (tmp_path / "operator" / "src" / "two.py").write_text("TWO = 2\n")
    return tmp_path


def of(checkout: Path, *, base: str = "base:1") -> str:
    return input_hash(checkout=checkout, inputs=("Dockerfile", "operator"), base=base)


def test_the_same_inputs_have_the_same_hash(checkout: Path) -> None:
    assert of(checkout) == of(checkout)
    assert re.fullmatch("[0-9a-f]{12}", of(checkout))


def test_a_changed_file_changes_the_hash(checkout: Path) -> None:
    before = of(checkout)
    (checkout / "operator" / "src" / "one.py").write_text("ONE = 3\n")
    assert of(checkout) != before


def test_a_renamed_file_changes_the_hash(checkout: Path) -> None:
    before = of(checkout)
    (checkout / "operator" / "src" / "two.py").rename(checkout / "operator" / "src" / "three.py")
    assert of(checkout) != before


def test_text_moved_from_one_file_to_the_next_changes_the_hash(checkout: Path) -> None:
    before = of(checkout)
    (checkout / "operator" / "src" / "one.py").write_text("ONE = 1\nTWO")
    (checkout / "operator" / "src" / "two.py").write_text(" = 2\n")
    assert of(checkout) != before


def test_an_executable_bit_changes_the_hash(checkout: Path) -> None:
    before = of(checkout)
    (checkout / "Dockerfile").chmod(0o755)
    assert of(checkout) != before


def test_another_base_changes_the_hash(checkout: Path) -> None:
    assert of(checkout, base="base:1") != of(checkout, base="base:2")


def test_bytecode_does_not_change_the_hash(checkout: Path) -> None:
    before = of(checkout)
    cache = checkout / "operator" / "src" / "__pycache__"
    cache.mkdir()
    (cache / "one.cpython-311.pyc").write_bytes(b"\0")
    assert of(checkout) == before


def test_the_debian_base_is_named_after_its_recipe() -> None:
    assert re.fullmatch(r"localhost/tessera/base:bookworm-[0-9a-f]{12}", base_name())


def stage_sources(dockerfile: str) -> dict[str, set[str]]:
    """Stage -> what it and the stages that it is made from copy out of the checkout."""
    copied: dict[str, set[str]] = {}
    made_from: dict[str, set[str]] = {}
    stage = ""
    for line in dockerfile.splitlines():
        if found := re.match(r"FROM (\S+) AS (\S+)", line):
            stage = found[2]
            copied[stage], made_from[stage] = set(), {found[1]}
        elif found := re.match(r"COPY --from=(\S+) ", line):
            made_from[stage].add(found[1])
        elif found := re.match(r"COPY (?:--\S+ )*(\S+) \S+$", line):
            copied[stage].add(found[1])

    def everything(name: str) -> set[str]:
        return copied.get(name, set()).union(*(everything(other) for other in made_from.get(name, ())))

    return {name: everything(name) for name in copied}


@pytest.mark.parametrize("recipe", [OPERATOR, WORKER_THIN], ids=lambda recipe: recipe.target)
def test_the_name_covers_everything_that_the_dockerfile_copies(recipe: Recipe) -> None:
    checkout = checkout_directory()
    sources = stage_sources((checkout / "Dockerfile").read_text())[recipe.target]
    assert sources, "the parser of this test found no COPY"
    for source in sources:
        assert any(Path(source).is_relative_to(entry) for entry in recipe.inputs), source
    for entry in ("Dockerfile", *sources):
        assert (checkout / entry).exists(), entry
    assert "Dockerfile" in recipe.inputs


def test_the_builder_is_sent_everything_that_the_dockerfile_copies() -> None:
    checkout = checkout_directory()
    lines = (checkout / ".dockerignore").read_text().split("\n")
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for sources in stage_sources((checkout / "Dockerfile").read_text()).values():
        for source in sources:
            parents = [source, *map(str, Path(source).parents)]
            assert any(fnmatch.fnmatch(path, pattern) for path in parents for pattern in allowed), source
