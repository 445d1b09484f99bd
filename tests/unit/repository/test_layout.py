"""What must hold for the whole repository, whatever is in it."""

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_operator_is_not_a_package() -> None:
    """A package of that name hides the standard library's `operator` from everything run at the root."""
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert (ROOT / "operator" / "src" / "tessera" / "__init__.py").exists()


def test_tests_are_not_packages() -> None:
    assert [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_no_file_names_a_directory_of_one_machine() -> None:
    # Joined here, so that this file does not hold them either.
    directories = ["/" + name + "/" for name in ("work", "farm", "root", "home/[a-z]+", "Users/[A-Za-z]+")]
    pattern = re.compile(r"(?<![\w./$}~-])(" + "|".join(directories) + ")")
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_licence_is_the_unchanged_text_of_apache_2() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    # Of https://www.apache.org/licenses/LICENSE-2.0.txt.
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@pytest.mark.parametrize("distribution", ["operator", "workloads"])
def test_both_distributions_carry_the_licence(distribution: str) -> None:
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"


def direct_dependencies() -> list[str]:
    requirements: list[str] = []
    for folder in ("operator", "workloads"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        requirements += project["dependencies"]
        for extra in project.get("optional-dependencies", {}).values():
            requirements += extra
    for group in tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].values():
        requirements += group
    names = {re.split(r"[<>=~!\[ ;]", requirement)[0].lower() for requirement in requirements}
    return sorted(names - {"tessera", "tessera-workloads"})


@pytest.mark.parametrize("name", direct_dependencies())
def test_every_direct_dependency_is_explained(name: str) -> None:
    """A line of docs/dependencies.md says for what, why this one, and what it costs."""
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    own = [row for row in cells if f"`{name}`" in row[0]]
    assert len(own) == 1, f"docs/dependencies.md needs one row for {name}"
    assert all(own[0]), f"the row of {name} has an empty cell"


def test_the_page_of_dependencies_explains_nothing_that_is_not_used() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    explained = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert sorted(set(explained)) == sorted(direct_dependencies())
