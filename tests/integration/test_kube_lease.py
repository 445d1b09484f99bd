"""Leader election against a real API server: one leader, quick hand-over, a paused leader that wakes up."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from tessera.kube.client import KubeClient
from tessera.kube.lease import LeaderElector, LeadershipLost
from tessera.kube.resources import LEASES
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration
LIMIT_SECONDS = 60.0
TIMES = {"lease_seconds": 3.0, "renew_deadline_seconds": 2.0, "retry_seconds": 0.2}


class Candidate:
    """One replica. `started` is set when it leads, `ended` when its work was stopped."""

    def __init__(self, client: KubeClient, namespace: str, identity: str) -> None:
        self.elector = LeaderElector(
            client,
            namespace=namespace,
            name="test",
            identity=identity,
            lease_seconds=TIMES["lease_seconds"],
            renew_deadline_seconds=TIMES["renew_deadline_seconds"],
            retry_seconds=TIMES["retry_seconds"],
        )
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.finish = asyncio.Event()
        self.task = asyncio.create_task(self.elector.run(self._work))

    async def _work(self) -> None:
        self.started.set()
        try:
            await self.finish.wait()
        finally:
            self.ended.set()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def holder(client: KubeClient, namespace: str) -> str | None:
    spec: dict[str, str] = (await client.get(LEASES, "test", namespace))["spec"]
    return spec.get("holderIdentity")


async def test_one_of_many_leads_and_a_clean_stop_hands_over_at_once(
    admin: KubeClient, namespace: str
) -> None:
    candidates = [Candidate(admin, namespace, f"pod-{number}") for number in range(4)]
    async with asyncio.timeout(LIMIT_SECONDS):
        for _ in range(len(candidates)):
            waiting = [asyncio.create_task(candidate.started.wait()) for candidate in candidates]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            leaders = [candidate for candidate in candidates if candidate.elector.is_leader]
            assert len(leaders) == 1
            leader = leaders[0]
            await leader.elector.verify()
            loser = next((candidate for candidate in candidates if candidate is not leader), None)
            if loser is not None:
                with pytest.raises(LeadershipLost):
                    await loser.elector.verify()
            leader.finish.set()
            await leader.task
            assert not leader.elector.is_leader
            candidates.remove(leader)
    assert await holder(admin, namespace) is None


async def test_cancelling_stops_the_work_first_and_gives_the_lease_back(
    admin: KubeClient, namespace: str
) -> None:
    leader = Candidate(admin, namespace, "pod-0")
    async with asyncio.timeout(LIMIT_SECONDS):
        await leader.started.wait()
    await leader.cancel()
    assert leader.ended.is_set()
    assert await holder(admin, namespace) is None


async def test_an_error_of_the_work_is_raised_and_the_lease_given_back(
    admin: KubeClient, namespace: str
) -> None:
    async def broken() -> None:
        raise RuntimeError("boom")

    elector = LeaderElector(admin, namespace=namespace, name="test", identity="pod-0")
    async with asyncio.timeout(LIMIT_SECONDS):
        with pytest.raises(RuntimeError, match="boom"):
            await elector.run(broken)
    assert await holder(admin, namespace) is None


async def test_a_stolen_lease_stops_the_work_and_is_not_given_back(admin: KubeClient, namespace: str) -> None:
    leader = Candidate(admin, namespace, "pod-0")
    async with asyncio.timeout(LIMIT_SECONDS):
        await leader.started.wait()
        body = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
        await admin.patch(LEASES, "test", namespace=namespace, body=body)
        with pytest.raises(LeadershipLost, match="thief"):
            await leader.elector.verify()
        await leader.task
    assert leader.ended.is_set()
    assert await holder(admin, namespace) == "thief"


REPLICA = """
import asyncio, sys, time
from tessera.kube.client import KubeClient
from tessera.kube.lease import LeaderElector, LeadershipLost

async def main(kubeconfig, namespace):
    async with await KubeClient.connect(kubeconfig) as client:
        elector = LeaderElector(client, namespace=namespace, name="test", identity="paused",
                                lease_seconds=3, renew_deadline_seconds=2, retry_seconds=.2)
        async def work():
            print("started", flush=True)
            last = time.monotonic()
            while True:
                await asyncio.sleep(.05)
                now = time.monotonic()
                # Longer than the renew deadline: a short stall of a busy machine is no pause.
                if now - last > 2:
                    # This runs right after the pause, maybe before anything could cancel it.
                    print("woke", elector.is_leader, flush=True)
                    try:
                        await elector.verify()
                        print("verified", flush=True)
                    except LeadershipLost:
                        print("refused", flush=True)
                last = now
        await elector.run(work)
        print("stopped", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_paused_leader_is_replaced_and_does_nothing_when_it_wakes_up(
    control_plane: ControlPlane, admin: KubeClient, namespace: str, tmp_path: Path
) -> None:
    script = tmp_path / "replica.py"
    script.write_text(REPLICA)
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, control_plane.kubeconfig, namespace, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await process.stdout.readline() == b"started\n"
            os.kill(process.pid, signal.SIGSTOP)
            successor = Candidate(admin, namespace, "successor")
            await successor.started.wait()
            os.kill(process.pid, signal.SIGCONT)
            said = (await process.stdout.read()).decode().split("\n")
            await process.wait()
        await successor.elector.verify()
        assert await holder(admin, namespace) == "successor"
        await successor.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "woke True" not in said
    assert "verified" not in said
    assert "stopped" in said
