"""What a running worker says over HTTP."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from tessera_workloads.progress import Progress, ProgressServer


@pytest.fixture
def served() -> Iterator[tuple[Progress, str]]:
    progress = Progress(workload="example")
    server = ProgressServer(progress, port=0)
    server.start()
    yield progress, f"http://127.0.0.1:{server.port}"
    server.stop()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_progress_has_every_key_of_the_contract_from_the_first_second(served: tuple[Progress, str]) -> None:
    seen = json.loads(get(served[1] + "/progress"))
    assert seen == {
        "workload": "example",
        "phase": "starting",
        "step": 0,
        "steps": 0,
        "stepsPerSecond": None,
        "etaSeconds": None,
        "loss": None,
        "checkpointStep": None,
        "resumedFromStep": None,
    }


def test_progress_follows_the_run(served: tuple[Progress, str]) -> None:
    progress, url = served
    progress.enter("train", steps=100, step=20, resumed=True)
    progress.stepped(step=21, seconds=0.25, samples=8, loss=1.5, lr=0.1)
    progress.checkpointed(21)
    seen = json.loads(get(url + "/progress"))
    assert (seen["phase"], seen["step"], seen["steps"], seen["resumedFromStep"]) == ("train", 21, 100, 20)
    assert (seen["stepsPerSecond"], seen["etaSeconds"]) == (4.0, 19.8)  # 79 steps of a quarter of a second
    assert (seen["loss"], seen["checkpointStep"]) == (1.5, 21)


def test_metrics_are_prometheus_text_with_one_current_phase(served: tuple[Progress, str]) -> None:
    progress, url = served
    progress.enter("train", steps=100)
    progress.stepped(step=1, seconds=0.003, samples=8, loss=1.5, lr=0.1)
    progress.checkpointed(1)
    progress.judged(check="size", kind="gate", passed=True)
    text = get(url + "/metrics")
    for line in (
        'workload_phase_info{phase="train",workload="example"} 1.0',
        'workload_samples_total{workload="example"} 8.0',
        'workload_checkpoint_total{workload="example"} 1.0',
        'workload_step_seconds_bucket{le="0.005",workload="example"} 1.0',
        'workload_loss{workload="example"} 1.5',
        'workload_lr{workload="example"} 0.1',
        'workload_steps{workload="example"} 1.0',
        'workload_steps_target{workload="example"} 100.0',
        'workload_check_passed{check="size",kind="gate",workload="example"} 1.0',
    ):
        assert line in text
    assert text.count("workload_phase_info{") == 1


def test_health_and_unknown_paths(served: tuple[Progress, str]) -> None:
    assert get(served[1] + "/healthz") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(served[1] + "/secrets")
