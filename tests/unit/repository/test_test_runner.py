"""`tools/run-tests` and `tools/bootstrap.sh`, run for real on small trees."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the runner and an empty level of tests."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "run-tests", tmp_path / "tools" / "run-tests")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    return tmp_path


def run(tree: Path, *levels: str) -> subprocess.CompletedProcess[str]:
    # The pytest of this environment, whatever else the machine has.
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TESSERA_TEST_PROCESSES": "0",  # one test is not worth two more processes
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p xdist.plugin",
    }
    return subprocess.run(
        ["tools/run-tests", *levels],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_passing_level_ends_with_a_summary(tree: Path) -> None:
    (tree / "tests" / "unit" / "test_one.py").write_text("def test_one(): pass\n")
    done = run(tree, "unit")
    assert done.returncode == 0, done.stdout + done.stderr
    *_, summary, last = done.stdout.strip().splitlines()
    assert summary.startswith("unit ")
    assert "1 passed" in summary
    assert last.startswith("all tests passed in")


def test_a_failing_level_fails_the_run_and_the_next_level_still_runs(tree: Path) -> None:
    (tree / "tests" / "unit" / "test_one.py").write_text("def test_one(): assert False\n")
    done = run(tree, "unit", "unit")
    assert done.returncode == 1
    assert done.stdout.count("FAILED: 1 failed") == 2
    assert done.stdout.strip().splitlines()[-1].startswith("FAILED after")


def test_a_level_without_tests_is_a_failure(tree: Path) -> None:
    done = run(tree, "unit")
    assert done.returncode == 1
    assert "no tests ran" in done.stdout


def test_bootstrap_names_the_python_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "tools" / "bootstrap.sh", tmp_path / "tools" / "bootstrap.sh")
    for tool in ("bash", "dirname", "grep", "id"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    old = tmp_path / "bin" / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.12\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["tools/bootstrap.sh", "demo", "true"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "LANG": os.environ.get("LANG", "C")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed; python3 here is Python 3.10.12" in done.stderr
    assert "apt-get install" in done.stderr


@pytest.fixture
def checkout_with_uv(tmp_path: Path) -> Path:
    """A checkout with the bootstrap script, an environment, and a uv that says nothing by itself.

    It works until a sign of life stands in the file `said`, and ends with the status in the file `status`.
    """
    for folder in ("tools", "bin", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "bootstrap.sh", tmp_path / "tools" / "bootstrap.sh")
    uv = (
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "uv 0.9.2 (test)" && exit\n'
        'echo "$*" >asked\n'
        "for attempt in $(seq 500); do grep -q still said && break; sleep 0.02; done\n"
        "exit $(cat status)\n"
    )
    for path, text in (("bin/uv", uv), (".venv/bin/python", "#!/bin/sh\n")):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(("uv_ends_with", "status"), [(0, 0), (2, 1)])
def test_bootstrap_shows_that_it_still_works(checkout_with_uv: Path, uv_ends_with: int, status: int) -> None:
    (checkout_with_uv / "status").write_text(str(uv_ends_with))
    with (checkout_with_uv / "said").open("w") as said:
        done = subprocess.run(
            ["tools/bootstrap.sh", "demo", "echo", "the", "command"],
            cwd=checkout_with_uv,
            env=os.environ
            | {"PATH": f"{checkout_with_uv}/bin:{os.environ['PATH']}", "TESSERA_HEARTBEAT_SECONDS": "0.05"},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            # The output ends only when nothing holds it any more: no heartbeat outlives the script.
            timeout=30,
            check=False,
        )
    lines = (checkout_with_uv / "said").read_text()
    assert done.returncode == status, lines
    assert "s] still fetching and installing Python packages" in lines
    assert "--quiet" not in (checkout_with_uv / "asked").read_text()
    assert done.stdout == ("" if uv_ends_with else "the command\n")
    assert ("uv could not make the environment" in lines) == bool(uv_ends_with)
