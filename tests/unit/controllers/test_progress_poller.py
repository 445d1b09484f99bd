"""Workers are asked over HTTP; only news makes a job reconcile, and a silent worker loses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tessera.controllers.progress import JobKey, ProgressPoller

Object = dict[str, Any]
KEY: JobKey = ("default", "train")


class Worker:
    """A worker's /progress, on a port of its own."""

    def __init__(self) -> None:
        self.answer: web.Response | Object = {"phase": "train", "step": 1, "steps": 9}
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        if isinstance(self.answer, dict):
            return web.json_response(self.answer)
        return self.answer


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker that answers."""
    made = Worker()
    app = web.Application()
    app.router.add_get("/progress", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def pod(*, running: bool = True, address: str | None = "127.0.0.1") -> Object:
    state = {"running": {}} if running else {"terminated": {"exitCode": 0}}
    return {
        "metadata": {"namespace": "default", "name": "p", "labels": {"tessera.dev/training-job": "train"}},
        "status": {"containerStatuses": [{"name": "worker", "state": state}], "podIP": address},
    }


class Asked:
    """A poller with its pods and what it told."""

    def __init__(self, port: int, *pods: Object) -> None:
        self.pods = list(pods)
        self.told: list[JobKey] = []
        self.poller = ProgressPoller(pods=lambda: self.pods, on_change=self.told.append, port=port)

    async def again(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            await self.poller.poll_once(session)


async def test_news_are_told_once(worker: Worker) -> None:
    asked = Asked(worker.port, pod())
    await asked.again()
    await asked.again()
    assert asked.told == [KEY]
    worker.answer = {"phase": "train", "step": 2, "steps": 9, "loss": 0.25, "stepsPerSecond": 3.5, "new": 1}
    await asked.again()
    assert asked.told == [KEY, KEY]
    progress = asked.poller.progress(KEY)
    assert progress is not None
    assert (progress.step, progress.loss, progress.steps_per_second) == (2, 0.25, 3.5)


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=500),
        web.Response(text="busy"),
        web.json_response({"step": -1}),
        web.json_response([1]),
    ],
    ids=["an error", "no JSON", "a value out of range", "a list"],
)
async def test_a_worker_that_talks_nonsense_leaves_what_was_known(
    worker: Worker, answer: web.Response
) -> None:
    asked = Asked(worker.port, pod())
    await asked.again()
    worker.answer = answer
    await asked.again()
    assert asked.told == [KEY]
    progress = asked.poller.progress(KEY)
    assert progress is not None
    assert progress.step == 1


@pytest.mark.parametrize(
    ("said", "left_out"),
    [
        ('"loss": NaN', "loss"),
        ('"loss": -Infinity', "loss"),
        ('"loss": "nan"', "loss"),
        ('"etaSeconds": 1e999', "eta_seconds"),
        ('"stepsPerSecond": -1', "steps_per_second"),
        ('"steps": 9223372036854775808', "steps"),
        (f'"checkpointStep": {"9" * 400}', "checkpoint_step"),
        (f'"phase": "{"x" * 300}"', "phase"),
        (r'"phase": "\ud800"', "phase"),
    ],
)
async def test_what_cannot_be_stored_is_left_out_and_the_rest_is_told(
    worker: Worker, said: str, left_out: str
) -> None:
    worker.answer = web.Response(text=f'{{"step": 2, {said}}}')
    asked = Asked(worker.port, pod())
    await asked.again()
    progress = asked.poller.progress(KEY)
    assert progress is not None
    assert progress.step == 2
    assert getattr(progress, left_out) is None


@pytest.mark.parametrize("body", ["[" * 20_000, '{"step": ' + "9" * 5000 + "}"], ids=["nested", "digits"])
async def test_an_answer_that_no_reader_takes_is_no_answer(worker: Worker, body: str) -> None:
    worker.answer = web.Response(text=body)
    asked = Asked(worker.port, pod())
    await asked.again()
    assert asked.poller.progress(KEY) is None


async def test_only_running_pods_with_an_address_are_asked(worker: Worker) -> None:
    asked = Asked(worker.port, pod(running=False), pod(address=None))
    await asked.again()
    assert asked.told == []


async def test_a_pod_that_cannot_be_reached_is_no_error(worker: Worker) -> None:
    asked = Asked(1, pod())
    await asked.again()
    assert asked.poller.progress(KEY) is None


async def test_a_job_without_pods_is_forgotten(worker: Worker) -> None:
    asked = Asked(worker.port, pod())
    await asked.again()
    asked.pods.clear()
    await asked.again()
    assert asked.poller.progress(KEY) is None
