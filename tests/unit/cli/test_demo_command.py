"""`tessera demo` on a cluster that is only pretended: what it looks at, when it gives up, what it says."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import yaml
from click.testing import CliRunner, Result
from tessera.api.errors import TesseraError
from tessera.cli import demo
from tessera.cli.frame import build_frame
from tessera.kube.resources import HETEROGENEOUS_TRAINING_JOBS

REPOSITORY = Path(__file__).resolve().parents[3]
Object = dict[str, Any]
JOBS = ("noiser-2g", "noiser-3g", "noiser-4g", "fits-nowhere")


def job(name: str, *, reason: str = "Running", namespace: str = "default", **status: Any) -> Object:
    conditions = [{"type": "Ready", "status": "False", "reason": reason, "message": f"{name} says {reason}"}]
    if reason in ("Complete", "Failed"):
        conditions.append({"type": reason, "status": "True", "reason": reason, "message": f"{name} ended"})
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"resources": {"slice": {"profile": "2g.20gb"}}},
        "status": {"conditions": conditions} | status,
    }


def ended() -> list[Object]:
    return [*(job(name, reason="Complete") for name in JOBS[:3]), job(JOBS[3], reason="UnknownProfile")]


class PretendedCluster:
    """Answers the demo's questions: one list of jobs per look, the last one for ever."""

    def __init__(self, output: Path) -> None:
        self.looks: list[list[Object]] = []
        self.pictures: tuple[str, ...] = ()
        self.output = output

    def bring_up(self, settings: Any, *, progress: Any) -> Any:
        return SimpleNamespace(
            settings=settings,
            kubeconfig=Path("kubeconfig"),
            kubectl=Path("kubectl"),
            output_directory=self.output,
            real_node=True,
            cluster=SimpleNamespace(control_plane=SimpleNamespace(kubectl=self.kubectl)),
        )

    def kubectl(self, *arguments: str) -> str:
        if arguments[0] == "apply":
            for name in self.pictures:
                (self.output / name).mkdir()
                (self.output / name / "before_after.png").touch()
        pod = {"metadata": {"name": "tessera-operator-0"}, "status": {"podIP": "10.0.0.9"}}
        return json.dumps({"items": [pod]})

    async def connect(self, **_: Any) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def list(self, resource: Any, namespace: str | None = None) -> Any:
        if resource is not HETEROGENEOUS_TRAINING_JOBS:
            return SimpleNamespace(items=[])
        seen = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return SimpleNamespace(
            items=[each for each in seen if namespace in (None, each["metadata"]["namespace"])]
        )


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretendedCluster:
    pretended = PretendedCluster(tmp_path)
    monkeypatch.setattr(demo, "bring_up", pretended.bring_up)
    monkeypatch.setattr(demo, "KubeClient", pretended)
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.0)
    return pretended


def run(*flags: str) -> Result:
    return CliRunner().invoke(demo.command, [*flags])


def test_it_ends_well_when_its_own_jobs_have_ended(cluster: PretendedCluster) -> None:
    strangers = [
        job("noiser-2g", reason="Failed", namespace="elsewhere"),
        job("somebody's", reason="Failed"),
        job("long", step=1),
    ]
    cluster.looks = [[*ended(), *strangers]]
    result = run()
    assert result.exit_code == 0, result.output
    assert "Done in" in result.output
    assert "fits-nowhere cannot run: fits-nowhere says UnknownProfile" in result.output
    for stranger in ("somebody's", "long"):
        assert stranger not in result.output


def test_a_failed_job_of_its_own_is_an_error(cluster: PretendedCluster) -> None:
    cluster.looks = [[job("noiser-2g", reason="Failed"), *ended()[1:]]]
    result = run()
    assert isinstance(result.exception, TesseraError)
    assert "1 of the demo's jobs failed: noiser-2g: noiser-2g ended" in str(result.exception)


def test_jobs_that_stand_still_end_it_after_all_that_it_has_was_printed(
    cluster: PretendedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "NO_PROGRESS_SECONDS", 0.0)
    cluster.pictures = ("noiser-3g", "stranger")
    cluster.looks = [[job("noiser-2g", progress={"step": 7, "steps": 9}), *ended()[1:]]]
    result = run()
    assert isinstance(result.exception, TesseraError)
    assert "noiser-2g did not end: no job moved for" in str(result.exception)
    assert "kubectl describe htj" in str(result.exception)
    assert "noiser-2g has not ended: noiser-2g says Running" in result.output
    assert "metrics: http://10.0.0.9:8080/metrics" in result.output
    assert f"before/after picture: {cluster.output}/noiser-3g/before_after.png" in result.output
    assert "stranger" not in result.output
    assert "noiser-4g" in result.output.split("Results")[1]
    assert "Gave up after" in result.output


def test_only_a_time_without_progress_counts() -> None:
    def frame(step: int, reason: str = "Running") -> list[Any]:
        progress = {"step": step, "steps": 100}
        return list(build_frame([], [job("noiser-2g", reason=reason, progress=progress)], []).jobs)

    stillness = demo.Stillness(0.0)
    assert stillness.seconds(frame(1), now=170.0) == 0
    assert stillness.seconds(frame(1), now=300.0) == 130
    assert stillness.seconds(frame(2), now=1000.0) == 0
    assert stillness.seconds(frame(2, "Starting"), now=1100.0) == 0
    assert stillness.seconds(frame(2, "Starting"), now=1181.0) == 81


def test_the_last_lines_name_commands_that_are_there(cluster: PretendedCluster) -> None:
    cluster.looks = [ended()]
    output = run("--name", "other").output
    last = output.split("To go on:")[1]
    assert "uv " not in last
    commands = [shlex.split(line)[0] for line in last.splitlines() if "tessera " in line]
    assert len(commands) == 2
    for command in commands:
        assert Path(command).is_absolute()
        assert os.access(command, os.X_OK), command


@pytest.mark.parametrize("nodes", ["0", "-3", "5001", "many"])
def test_a_number_of_nodes_that_cannot_be(nodes: str, cluster: PretendedCluster) -> None:
    result = run("--nodes", nodes)
    assert result.exit_code == 2
    assert "Invalid value for '--nodes'" in result.stderr


def test_every_object_of_the_quickstart_is_where_the_demo_looks() -> None:
    paths = sorted((REPOSITORY / "examples" / "quickstart").glob("*.yaml"))
    objects = [each for path in paths for each in yaml.safe_load_all(path.read_text())]
    jobs = [each for each in objects if each["kind"] == "HeterogeneousTrainingJob"]
    assert sorted(each["metadata"]["name"] for each in jobs) == sorted(JOBS)
    assert {each["metadata"]["namespace"] for each in jobs} == {demo.QUICKSTART_NAMESPACE}
