"""kill -9 of each process while a job of some seconds runs: it completes and nothing is doubled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from as_a_user import (
    SYSTEM,
    Kubectl,
    condition,
    hold_slices,
    in_use,
    kill_pod_processes,
    serves_a_claimed_pod,
    training_job,
    wait_for,
)
from tessera.gpu.simulator.faults import Fault, FaultInjector
from tessera.kube.resources import (
    HETEROGENEOUS_TRAINING_JOBS,
    LEASES,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
)
from tessera.local.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

Object = dict[str, Any]
RUNS_FOR_SECONDS = {"steps": 800, "hidden": 16}


def leader_of(kubectl: Kubectl, lease: str) -> str | None:
    found = kubectl.in_namespace(SYSTEM).get(LEASES, lease)
    return ((found or {}).get("spec") or {}).get("holderIdentity")


def start(kubectl: Kubectl, name: str, profile: str = "2g.20gb") -> Object:
    """Applies a job and waits until its container trains; returns the pod."""
    kubectl.apply(training_job(name, profile=profile, parameters=RUNS_FOR_SECONDS))

    def running() -> Object | None:
        pods = kubectl.items(PODS, f"tessera.dev/training-job={name}")
        return pods[0] if pods and pods[0]["status"].get("phase") == "Running" else None

    return dict(wait_for(f"a running pod of {name}", running))


def completed_once(kubectl: Kubectl, name: str, pod: Object) -> None:
    """The job ends well, in the one pod that it started with."""

    def ended() -> Object | None:
        job = kubectl.get(HETEROGENEOUS_TRAINING_JOBS, name)
        done = any(condition(job, t).get("status") == "True" for t in ("Complete", "Failed"))
        return job if done else None

    job = wait_for(f"{name} to end", ended, seconds=150)
    assert condition(job, "Complete")["status"] == "True", job["status"]
    pods = kubectl.items(PODS, f"tessera.dev/training-job={name}")
    assert [p["metadata"]["uid"] for p in pods] == [pod["metadata"]["uid"]]
    assert pods[0]["status"]["containerStatuses"][0]["restartCount"] == 0


def component_pods(kubectl: Kubectl, component: str) -> list[Object]:
    return kubectl.in_namespace(SYSTEM).items(PODS, f"app.kubernetes.io/component={component}")


def restarted(kubectl: Kubectl, component: str, name: str, before: int) -> bool:
    pod = next((p for p in component_pods(kubectl, component) if p["metadata"]["name"] == name), None)
    if not pod or not pod["status"].get("containerStatuses"):
        return False
    status = pod["status"]["containerStatuses"][0]
    return bool(status["restartCount"] > before and status["ready"])


def kill_and_wait(kubectl: Kubectl, component: str, name: str) -> None:
    pod = next(p for p in component_pods(kubectl, component) if p["metadata"]["name"] == name)
    before = pod["status"]["containerStatuses"][0]["restartCount"]
    kill_pod_processes(pod)
    wait_for(
        f"{component} {name} to come back", lambda: restarted(kubectl, component, name, before), seconds=150
    )


@pytest.mark.parametrize("component", ["operator", "scheduler"])
def test_the_leader_is_killed(component: str, kubectl: Kubectl, real_node: Stack) -> None:
    pod = start(kubectl, "lives-on")
    leader = wait_for("a leader", lambda: leader_of(kubectl, f"tessera-{component}"))
    kill_and_wait(kubectl, component, leader)
    completed_once(kubectl, "lives-on", pod)
    serves_a_claimed_pod(kubectl, profile="1g.10gb", image=real_node.worker_image)


def test_a_deleted_scheduler_leader_is_replaced_within_twenty_seconds(
    kubectl: Kubectl, real_node: Stack
) -> None:
    old = wait_for("a leader", lambda: leader_of(kubectl, "tessera-scheduler"))
    pod = next(p for p in component_pods(kubectl, "scheduler") if p["metadata"]["name"] == old)
    kill_pod_processes(pod)
    kubectl.in_namespace(SYSTEM).run("delete", "pod", old, "--grace-period=0", "--force", "--wait=false")
    lost = time.monotonic()
    wait_for(
        "another leader", lambda: leader_of(kubectl, "tessera-scheduler") not in (old, "", None), seconds=30
    )
    taken = time.monotonic() - lost
    # A bound of the protocol (15 s lease, 2 s retry), not of the machine's speed.
    assert taken < 20, f"the Lease changed hands after {taken:.1f} s"
    serves_a_claimed_pod(kubectl, profile="1g.10gb", image=real_node.worker_image)


def test_the_agent_is_killed(kubectl: Kubectl, real_node: Stack) -> None:
    pod = start(kubectl, "under-agent")
    agent = component_pods(kubectl, "agent")[0]["metadata"]["name"]
    before = wait_for("the instance in use", lambda: in_use(kubectl))
    kill_and_wait(kubectl, "agent", agent)
    completed_once(kubectl, "under-agent", pod)
    assert len(before) == 1
    serves_a_claimed_pod(kubectl, profile="4g.40gb", image=real_node.worker_image)


def test_the_agents_checkpoint_is_torn(kubectl: Kubectl, real_node: Stack) -> None:
    """Half a checkpoint and a dead agent: the running pod keeps its instance; the next claim is served."""
    hold_slices(kubectl, {"torn": "2g.20gb"}, image=real_node.worker_image)
    before = kubectl.get(PODS, "torn")
    assert before is not None
    held = wait_for("the instance in use", lambda: in_use(kubectl))
    agent = component_pods(kubectl, "agent")[0]
    checkpoint = next(real_node.agent_state_directory.glob("*checkpoint*.json"))
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    kill_and_wait(kubectl, "agent", agent["metadata"]["name"])
    wait_for("the same instance in use", lambda: in_use(kubectl) == held)
    kept = kubectl.get(PODS, "torn")
    assert kept is not None
    assert kept["metadata"]["uid"] == before["metadata"]["uid"]
    assert kept["status"]["phase"] == "Running"
    assert kept["status"]["containerStatuses"][0]["restartCount"] == 0
    kubectl.run("delete", "pod", "torn", "--wait=true", "--timeout=60s")
    wait_for("no instance in use", lambda: in_use(kubectl) == [])
    serves_a_claimed_pod(kubectl, profile="3g.40gb", image=real_node.worker_image)


def test_the_kubelet_is_restarted(kubectl: Kubectl, real_node: Stack) -> None:
    pod = start(kubectl, "under-kubelet")
    real_node.restart_kubelet()
    wait_for(
        "the node to be ready",
        lambda: [
            c
            for n in kubectl.items(NODES)
            for c in n["status"]["conditions"]
            if c["type"] == "Ready" and c["status"] == "True"
        ],
    )
    completed_once(kubectl, "under-kubelet", pod)
    serves_a_claimed_pod(kubectl, profile="2g.20gb", image=real_node.worker_image)


def test_a_claim_is_deleted_while_it_is_prepared(
    kubectl: Kubectl, real_node: Stack, faults: FaultInjector
) -> None:
    """Creating the GPU instance takes 3 s here; the job goes away in the middle. Nothing stays behind."""
    faults.set([Fault("nvmlDeviceCreateGpuInstanceWithPlacement", action="delay", seconds=3, times=0)])
    kubectl.apply(training_job("gone", profile="1g.20gb"))
    checkpoint = next(real_node.agent_state_directory.glob("*checkpoint*.json"))

    def begun() -> bool:
        known = checkpoint.read_text()
        return any(claim["metadata"]["uid"] in known for claim in kubectl.items(RESOURCE_CLAIMS))

    wait_for("the agent to begin", begun)
    kubectl.run("delete", "htj", "gone", "--wait=false")
    wait_for(
        "pods and claims to go",
        lambda: not kubectl.items(PODS) and not kubectl.items(RESOURCE_CLAIMS),
        seconds=90,
    )
    faults.set([])
    wait_for("no instance in use", lambda: in_use(kubectl) == [])
    serves_a_claimed_pod(kubectl, profile="1g.20gb", image=real_node.worker_image)
