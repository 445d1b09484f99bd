"""What is said where no Go can be found: what is missing, and what else would do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tessera.local import build
from tessera.local.errors import MissingToolError


@pytest.fixture(autouse=True)
def nothing_found_yet() -> Iterator[None]:
    """What was found is kept for the process."""
    build.find_go.cache_clear()
    yield
    build.find_go.cache_clear()


def test_without_go_and_uv_the_error_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "INSTALLED_GO", tmp_path / "go")
    with pytest.raises(MissingToolError, match=r"Go >= .* install it .* or install uv; .*--provider kind"):
        build.find_go()


def test_a_go_that_is_too_old_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go1.19\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "INSTALLED_GO", tmp_path / "none")
    with pytest.raises(MissingToolError):
        build.find_go()
