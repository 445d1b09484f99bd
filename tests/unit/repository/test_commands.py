"""One set of commands: the Makefile's, for developers and for continuous integration alike."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from tessera.cli.local import command as local

ROOT = Path(__file__).resolve().parents[3]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yaml"


def targets() -> list[str]:
    return re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE)


def workflow_commands() -> str:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    return "\n".join(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("target", ["demo", "demo-down", "test", "check", "generate", "help"])
def test_the_commands_of_the_readme_exist(target: str) -> None:
    assert target in targets()


def test_every_target_is_explained_by_make_help() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    explained = re.findall(r"^  make ([a-z0-9-]+) +\S", shown, re.MULTILINE)
    assert sorted(explained) == sorted(targets())


def recipe(target: str) -> str:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("target", ["bench", "bench-scheduler", "bench-relayout"])
def test_every_file_of_the_benchmarks_exists(target: str) -> None:
    """As a file that Python runs; pytest would find no test in tests/bench."""
    commands = recipe(target)
    files = re.findall(r"\btests/\S+\.py", commands)
    files += [f"tests/{module.replace('.', '/')}.py" for module in re.findall(r"python -m (\S+)", commands)]
    assert files
    assert "pytest" not in commands
    for name in files:
        assert (ROOT / name).is_file(), name
        assert '__name__ == "__main__"' in (ROOT / name).read_text(), name


def test_make_bench_leaves_no_benchmark_out() -> None:
    named = set(re.findall(r"\btests/bench/\S+\.py", recipe("bench")))
    assert named == {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "bench").glob("*.py")}


def test_every_target_is_phony() -> None:
    """A file called `test` or `check` must not stand for a test or a check."""
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert sorted(phony[1].split()) == sorted(targets())


def test_continuous_integration_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line.strip() for line in script.read_text().splitlines()]
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "exec make test"


def test_make_test_runs_the_levels_in_order() -> None:
    levels = ["unit", "simulation", "workloads", "integration", "e2e"]
    assert recipe("test").split()[-6:] == ["tools/run-tests", *levels]
    assert {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} <= set(levels)


def test_the_workflow_runs_what_developers_run() -> None:
    commands = workflow_commands()
    assert ".ci/run" in commands
    used = set(re.findall(r"^make ([a-z-]+)", commands, re.MULTILINE))
    assert "check" in used
    assert used <= set(targets())


def test_the_workflow_has_least_rights_and_time_limits() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())


@pytest.mark.parametrize("script", [".ci/run", "tools/bootstrap.sh", "tools/run-tests", "tools/requirements"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_the_readme_names_targets_that_exist() -> None:
    named = set(
        re.findall(r"(?:`|^)make ([a-z]+(?:-[a-z]+)*)\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert {"demo", "test", "check", "bench"} <= named <= set(targets())


@pytest.mark.parametrize("line", re.findall(r"(?<=tessera local ).+", workflow_commands()))
def test_the_command_line_knows_what_continuous_integration_asks_of_it(line: str) -> None:
    """Parsed, not carried out: only continuous integration has kind."""
    name, *options = shlex.split(line)
    local.commands[name].make_context(name, options)
