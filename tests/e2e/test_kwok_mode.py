"""The mode without root, whole: KWOK nodes, Tessera's processes beside them, and schedulers that die.

What runs on a simulated node is pretence. Everything before that is not: the API server with RBAC and the
admission policies, the chart, placement, the Lease, the claims. So this is where many pods meet a scheduler
that dies while they arrive.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from as_a_user import SYSTEM, Kubectl, condition, training_job, wait_for
from invariants import InvariantChecker
from scheduler_objects import exactly
from tessera.api import names
from tessera.local.progress import Progress
from tessera.local.stack import Stack, StackSettings, bring_up, take_down
from tessera.local.stand_in import RunningStandIn, running_stand_ins

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

Object = dict[str, Any]
NODES = 3
ARRIVING_PODS = 20
# A bound of the protocol (15 s lease, 2 s retry), not of the machine's speed.
TAKEOVER_SECONDS = 20


@pytest.fixture(scope="module")
def stack(cluster_directory: Path) -> Iterator[Stack]:
    """A KWOK cluster of this file's own, also for root."""
    settings = StackSettings(
        name=f"kwok-{os.getpid()}", state_dir=cluster_directory, namespace=SYSTEM, kwok_nodes=NODES
    )
    try:
        yield bring_up(settings)
    finally:
        take_down(settings)


@pytest.fixture(scope="module")
def invariants(stack: Stack) -> Iterator[InvariantChecker]:
    with InvariantChecker(stack.kubeconfig) as checker:
        yield checker
    assert len(checker.gpunodes_seen) == NODES
    assert len(checker.claims_seen) >= 2 * ARRIVING_PODS


def test_jobs_are_placed_end_and_give_their_slices_back(kubectl: Kubectl, stack: Stack) -> None:
    assert not stack.real_node
    jobs = {f"job-{number}": "3g.40gb" for number in range(3 * NODES)} | {"whole": "7g.80gb"}
    kubectl.apply(*(training_job(name, profile=profile) for name, profile in jobs.items()))
    kubectl.apply(training_job("fits-nowhere", profile="7g.141gb"))

    def ended() -> list[Object] | None:
        found = [job for job in kubectl.items("htj") if job["metadata"]["name"] in jobs]
        return found if all(_is_complete(job) for job in found) and len(found) == len(jobs) else None

    for job in wait_for("all jobs to complete", ended, every=0.5):
        placement = job["status"]["placement"]
        assert placement["profile"] == jobs[job["metadata"]["name"]]
        assert placement["node"].startswith(stack.settings.name)
        assert condition(job, "Placed")["status"] == "False"
    refused = condition(kubectl.get("htj", "fits-nowhere"), "Placed")
    assert refused["reason"] == "UnknownProfile"
    assert "7g.80gb" in refused["message"], "the message must name what is offered"
    wait_for("the claims to be freed", lambda: not _allocations(kubectl))
    wait_for("no instance in use", lambda: not _in_use(kubectl))


def test_a_paused_scheduler_is_replaced_and_what_it_wakes_up_to_do_is_refused(
    kubectl: Kubectl, stack: Stack
) -> None:
    def wake(paused: RunningStandIn) -> None:
        os.kill(paused.pid, signal.SIGCONT)

    log = stack.cluster.state.logs
    paused = pods_arrive_while_the_leader_goes(kubectl, stack, signal.SIGSTOP, after_takeover=wake)
    # It lives on, knows that it has lost the Lease, and is there for the next election.
    wait_for("the other one to stand by", lambda: paused in running_stand_ins(stack.cluster))
    assert "Traceback" not in (log / f"{paused.role}.log").read_text()


def test_a_killed_scheduler_is_replaced_and_the_next_up_starts_what_is_missing(
    kubectl: Kubectl, stack: Stack
) -> None:
    """Missing are then the killed one, and one whose pod was replaced: the token went with the pod."""
    killed = pods_arrive_while_the_leader_goes(kubectl, stack, signal.SIGKILL)
    before = running_stand_ins(stack.cluster)
    assert killed.role not in {process.role for process in before}
    operator = next(process for process in before if process.role == "tessera-operator-0")
    kubectl.in_namespace(SYSTEM).run("delete", "pod", str(operator.pod))

    bring_up(stack.settings, progress=Progress.silent())

    after = running_stand_ins(stack.cluster)
    pods = kubectl.in_namespace(SYSTEM).items("pods", "app.kubernetes.io/component in (operator,scheduler)")
    assert sorted(p.pod for p in after if p.pod) == sorted(pod["metadata"]["name"] for pod in pods)
    assert len(pods) == 4
    assert operator.pid not in {process.pid for process in after}
    kept = [process for process in before if not process.role.startswith("tessera-operator")]
    assert {p.role for p in kept} > {"tessera-fleet"}
    assert all(process in after for process in kept), "what lives is left alone"


def pods_arrive_while_the_leader_goes(
    kubectl: Kubectl,
    stack: Stack,
    number: signal.Signals,
    *,
    after_takeover: Callable[[RunningStandIn], None] = lambda leader: None,
) -> RunningStandIn:
    """Signals the leader while pods arrive: another one leads in time, every pod runs, no claim changes
    its slice. Returns the replica that was signalled.
    """
    leader: RunningStandIn = wait_for("a leader", lambda: _leader(kubectl, stack))
    with _apply_in_background(kubectl, [_template(), *map(_pod, range(ARRIVING_PODS))]) as arriving:
        early = wait_for("the first allocation", lambda: _allocations(kubectl), every=0.05)
        os.kill(leader.pid, number)
        lost = time.monotonic()
        assert arriving.wait(timeout=30) == 0
    early |= _allocations(kubectl)
    wait_for("another leader", lambda: (_leader(kubectl, stack) or leader) != leader, every=0.5, seconds=60)
    taken = time.monotonic() - lost
    assert taken < TAKEOVER_SECONDS, f"the Lease changed hands after {taken:.1f} s"
    after_takeover(leader)
    wait_for("all pods to run", lambda: len(_running(kubectl)) == ARRIVING_PODS, every=0.5)
    final = _allocations(kubectl)
    assert len(set(final.values())) == len(final) == ARRIVING_PODS
    assert {claim: final[claim] for claim in early} == early
    return leader


def _apply_in_background(kubectl: Kubectl, objects: list[Object]) -> subprocess.Popen[bytes]:
    command = [str(kubectl.binary), "--kubeconfig", str(kubectl.kubeconfig), "-n", kubectl.namespace]
    process = subprocess.Popen(
        [*command, "create", "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write("\n".join(map(json.dumps, objects)).encode())
    process.stdin.close()
    return process


def _template() -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "small"},
        "spec": {"spec": {"devices": {"requests": [exactly("1g.10gb")]}}},
    }


def _pod(number: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"small-{number}"},
        "spec": {
            "schedulingGates": [{"name": names.PLACEMENT_GATE}],
            "terminationGracePeriodSeconds": 0,
            "resourceClaims": [{"name": "slice", "resourceClaimTemplateName": "small"}],
            "containers": [
                {
                    "name": "main",
                    "image": "example.invalid/none",
                    "resources": {"claims": [{"name": "slice"}]},
                }
            ],
        },
    }


def _leader(kubectl: Kubectl, stack: Stack) -> RunningStandIn | None:
    """The living scheduler that holds the Lease."""
    lease = kubectl.in_namespace(SYSTEM).get("lease", names.SCHEDULER_LEASE)
    holder = ((lease or {}).get("spec") or {}).get("holderIdentity")
    schedulers = [p for p in running_stand_ins(stack.cluster) if p.role.startswith("tessera-scheduler")]
    return next((process for process in schedulers if process.pod == holder), None)


def _is_complete(job: Object) -> bool:
    if condition(job, "Failed").get("status") == "True":
        pytest.fail(f"job {job['metadata']['name']} failed: {job['status']}")
    return condition(job, "Complete").get("status") == "True"


def _allocations(kubectl: Kubectl) -> dict[str, tuple[str, str]]:
    """Claim -> the (pool, device) that it holds."""
    return {
        claim["metadata"]["name"]: (result["pool"], result["device"])
        for claim in kubectl.items("resourceclaims")
        for result in ((claim.get("status") or {}).get("allocation") or {"devices": {}})["devices"].get(
            "results", []
        )
    }


def _running(kubectl: Kubectl) -> list[Object]:
    return [pod for pod in kubectl.items("pods") if pod["status"].get("phase") == "Running"]


def _in_use(kubectl: Kubectl) -> list[str]:
    nodes = kubectl.items("gpunodes")
    instances = [i for n in nodes for g in n["status"].get("gpus", []) for i in g.get("instances", [])]
    return [i["device"] for i in instances if i["state"] == "InUse"]
