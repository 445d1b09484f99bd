"""The mode without root, whole: KWOK nodes, Tessera's processes beside them, and schedulers that die.

What runs on a simulated node is pretence. Everything before that is not: the API server with RBAC and the
admission policies, the chart, placement, the Lease, the claims. So this is where many pods meet a scheduler
that dies while they arrive.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from as_a_user import SYSTEM, Kubectl, condition, in_use, training_job, wait_for
from invariants import InvariantChecker
from scheduler_objects import exactly
from tessera.api import names
from tessera.cli.demo import own_command
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, LEASES, PODS, RESOURCE_CLAIMS
from tessera.local.kwok import DURATION_ANNOTATION
from tessera.local.progress import Progress
from tessera.local.stack import Stack, StackSettings, bring_up, take_down
from tessera.local.stand_in import RunningStandIn, running_stand_ins

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

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
        found = [job for job in kubectl.items(HETEROGENEOUS_TRAINING_JOBS) if job["metadata"]["name"] in jobs]
        return found if all(_is_complete(job) for job in found) and len(found) == len(jobs) else None

    for job in wait_for("all jobs to complete", ended, every=0.5):
        placement = job["status"]["placement"]
        assert placement["profile"] == jobs[job["metadata"]["name"]]
        assert placement["node"].startswith(stack.settings.name)
        assert condition(job, "Placed")["status"] == "False"
    refused = condition(kubectl.get(HETEROGENEOUS_TRAINING_JOBS, "fits-nowhere"), "Placed")
    assert refused["reason"] == "UnknownProfile"
    assert "7g.80gb" in refused["message"], "the message must name what is offered"
    wait_for("the claims to be freed", lambda: not _allocations(kubectl))
    wait_for("no instance in use", lambda: not in_use(kubectl))


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
    pods = kubectl.in_namespace(SYSTEM).items(PODS, "app.kubernetes.io/component in (operator,scheduler)")
    assert sorted(p.pod for p in after if p.pod) == sorted(pod["metadata"]["name"] for pod in pods)
    assert len(pods) == 4
    assert operator.pid not in {process.pid for process in after}
    kept = [process for process in before if not process.role.startswith("tessera-operator")]
    assert {p.role for p in kept} > {"tessera-fleet"}
    assert all(process in after for process in kept), "what lives is left alone"


def test_a_move_is_finished_by_the_next_leader_when_its_own_is_killed(kubectl: Kubectl, stack: Stack) -> None:
    """On a node with two GPUs a half of each is taken: room for a whole one is made by moving a half."""
    node = f"{stack.settings.name}-kwok-0"
    _allow_moves(kubectl, node)
    halves = [f"half-{number}" for number in range(4)]
    kubectl.apply(_claim_template("half", "3g.40gb"), _claim_template("whole", "7g.80gb"))
    kubectl.apply(*(_movable_job(name, "half", node=node) for name in halves))
    wait_for("the halves to run", lambda: len(_running(kubectl)) == len(halves))
    by_gpu = {_device_of(kubectl, name)[:12]: name for name in halves}
    assert len(by_gpu) == 2
    kubectl.run("delete", "job", *(name for name in halves if name not in by_gpu.values()))
    wait_for("two halves to be freed", lambda: len(_allocations(kubectl)) == 2)

    leader: RunningStandIn = wait_for("a leader", lambda: _leader(kubectl, stack))
    kubectl.apply(_movable_job("whole", "whole", node=node))
    # The Job controller waits ten seconds before it replaces the pod, so that this is early enough.
    moved = wait_for("an eviction", lambda: set(by_gpu.values()) - _jobs_that_stay(kubectl), every=0.05)
    os.kill(leader.pid, signal.SIGKILL)
    [placeholder] = _allocations(kubectl.in_namespace(SYSTEM)).values()

    wait_for("the whole to run beside both halves", lambda: len(_running(kubectl)) == 3, every=0.5)
    assert _device_of(kubectl, *moved) == placeholder[1]
    wait_for("the placeholder to be gone", lambda: not kubectl.in_namespace(SYSTEM).items(RESOURCE_CLAIMS))
    wait_for("the room to be nobody's any more", lambda: not _rooms(kubectl))


def test_the_demo_shows_its_jobs_to_their_ends(kubectl: Kubectl, stack: Stack, tmp_path: Path) -> None:
    """The command itself; what it would bring up is there already."""
    picture = tmp_path / "fullest.svg"
    options = [f"--name={stack.settings.name}", f"--nodes={NODES}", f"--picture={picture}"]
    done = subprocess.run(
        f"{own_command()} demo {' '.join(options)}",
        shell=True,
        env=os.environ | {"XDG_STATE_HOME": str(stack.cluster.state.directory.parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    jobs = {"noiser-2g": "2g.20gb", "noiser-3g": "3g.40gb", "noiser-4g": "4g.40gb"}
    results = said[said.index("Results") :]
    for name, profile in jobs.items():
        assert re.search(rf"{name} +{profile} +{stack.settings.name}.* Complete", results), said
        assert _is_complete(kubectl.in_namespace("default").get(HETEROGENEOUS_TRAINING_JOBS, name) or {})
    refusal = results[results.index("fits-nowhere cannot run: ") : results.index("metrics: ")]
    assert "7g.80gb" in refusal, "the message must name what is offered"
    assert "KWOK mode" in results, "nobody may take this for a training"
    urls = re.findall(r"metrics: (\S+)", results)
    assert sorted(urls) == sorted(process.metrics_url for process in running_stand_ins(stack.cluster))
    assert f"{own_command()} demo --down --name {stack.settings.name}" in results
    assert picture.read_text().startswith("<svg")


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


def _allow_moves(kubectl: Kubectl, node: str) -> None:
    """The GPUs of one node belong to a partition, and then that allows moves."""
    spec: Object = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node}}, "mode": "dynamic"}
    partition: Object = {
        "apiVersion": names.API_VERSION,
        "kind": "MIGPartition",
        "metadata": {"name": kubectl.namespace},
        "spec": spec,
    }
    kubectl.apply(partition)

    def owned() -> bool:
        gpus = (kubectl.get(GPU_NODES, node) or {}).get("spec", {}).get("gpus", [])
        return len(gpus) == 2 and all(gpu["partition"] == kubectl.namespace for gpu in gpus)

    wait_for("the operator to give the GPUs to the partition", owned)
    spec["dynamic"] = {"moves": {"maxVictims": 1, "per100Placements": 100}}
    kubectl.apply(partition)


def _movable_job(name: str, template: str, *, node: str) -> Object:
    """A Job of one pod on that node, which runs for an hour and may be moved."""
    ignore = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    annotations = {names.MOVABLE_ANNOTATION: "true", DURATION_ANNOTATION: "1h"}
    pod = _pod_spec(template) | {
        "restartPolicy": "Never",
        "nodeSelector": {"kubernetes.io/hostname": node},
    }
    spec = {
        "completions": 1,
        "completionMode": "Indexed",
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [ignore]},
        "template": {"metadata": {"annotations": annotations}, "spec": pod},
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def _jobs_that_stay(kubectl: Kubectl) -> set[str]:
    """Those with a pod that runs and was not asked to leave."""
    stay = [pod for pod in _running(kubectl) if "deletionTimestamp" not in pod["metadata"]]
    return {pod["metadata"]["labels"]["job-name"] for pod in stay}


def _device_of(kubectl: Kubectl, job: str) -> str:
    """The device of the Job's running pod."""
    [pod] = [p for p in _running(kubectl) if p["metadata"]["labels"]["job-name"] == job]
    [made] = pod["status"]["resourceClaimStatuses"]
    return _allocations(kubectl)[made["resourceClaimName"]][1]


def _template() -> Object:
    return _claim_template("small", "1g.10gb")


def _claim_template(name: str, profile: str) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [exactly(profile)]}}},
    }


def _pod(number: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"small-{number}"},
        "spec": _pod_spec("small") | {"terminationGracePeriodSeconds": 0},
    }


def _pod_spec(template: str) -> Object:
    return {
        "schedulingGates": [{"name": names.PLACEMENT_GATE}],
        "resourceClaims": [{"name": "slice", "resourceClaimTemplateName": template}],
        "containers": [
            {
                "name": "main",
                "image": "example.invalid/none",
                "resources": {"claims": [{"name": "slice"}]},
            }
        ],
    }


def _leader(kubectl: Kubectl, stack: Stack) -> RunningStandIn | None:
    """The living scheduler that holds the Lease."""
    lease = kubectl.in_namespace(SYSTEM).get(LEASES, names.SCHEDULER_LEASE)
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
        for claim in kubectl.items(RESOURCE_CLAIMS)
        for result in ((claim.get("status") or {}).get("allocation") or {"devices": {}})["devices"].get(
            "results", []
        )
    }


def _rooms(kubectl: Kubectl) -> list[str]:
    """The rooms that moves are making, as they stand on the claims that wait for them."""
    annotations = [claim["metadata"].get("annotations", {}) for claim in kubectl.items(RESOURCE_CLAIMS)]
    return [each[names.ROOM_ANNOTATION] for each in annotations if names.ROOM_ANNOTATION in each]


def _running(kubectl: Kubectl) -> list[Object]:
    return [pod for pod in kubectl.items(PODS) if pod["status"].get("phase") == "Running"]
