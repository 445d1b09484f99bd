"""What each process may do, asked of the API server's authorizer, and what it may not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from eventually import eventually
from integration.chart.installation import FLEET_SERVICE_ACCOUNT
from tessera.api import names
from tessera.kube.client import KubeClient

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
SYSTEM = names.SYSTEM_NAMESPACE
ELSEWHERE = "default"

# (verbs, resource[.group][/subresource], namespace, object name): None as a namespace is "in all of them".
Right = tuple[str, str, str | None, str | None]

ALLOWED: dict[str, list[Right]] = {
    names.OPERATOR_SERVICE_ACCOUNT: [
        ("get list watch", "migpartitions.tessera.dev", None, None),
        ("get list watch delete", "heterogeneoustrainingjobs.tessera.dev", None, None),
        ("patch", "migpartitions.tessera.dev/status", None, None),
        ("patch", "heterogeneoustrainingjobs.tessera.dev/status", None, None),
        ("get list watch patch", "gpunodes.tessera.dev", None, None),
        ("get list watch create patch", "jobs.batch", None, None),
        ("get list watch create patch", "resourceclaimtemplates.resource.k8s.io", None, None),
        ("list watch", "pods", None, None),
        ("create", "pods/eviction", None, None),
        ("list watch", "resourceclaims.resource.k8s.io", None, None),
        ("list watch", "resourceslices.resource.k8s.io", None, None),
        ("list watch", "nodes", None, None),
        ("create patch", "events.events.k8s.io", None, None),
        ("create", "leases.coordination.k8s.io", SYSTEM, None),
        ("get update", "leases.coordination.k8s.io", SYSTEM, names.OPERATOR_LEASE),
    ],
    names.SCHEDULER_SERVICE_ACCOUNT: [
        ("get list watch patch", "resourceclaims.resource.k8s.io", None, None),
        ("patch", "resourceclaims.resource.k8s.io/status", None, None),
        ("patch", "resourceclaims.resource.k8s.io/binding", None, None),
        ("get list watch patch", "pods", None, None),
        ("create", "pods/eviction", None, None),
        ("get", "jobs.batch", None, None),
        ("create delete", "resourceclaims.resource.k8s.io", SYSTEM, None),
        ("list watch", "nodes", None, None),
        ("list watch", "resourceslices.resource.k8s.io", None, None),
        ("list watch", "deviceclasses.resource.k8s.io", None, None),
        ("list watch", "migpartitions.tessera.dev", None, None),
        ("list", "gpunodes.tessera.dev", None, None),
        ("create patch", "events.events.k8s.io", None, None),
        ("create", "leases.coordination.k8s.io", SYSTEM, None),
        ("get update", "leases.coordination.k8s.io", SYSTEM, names.SCHEDULER_LEASE),
    ],
    names.AGENT_SERVICE_ACCOUNT: [
        ("list watch create patch delete", "resourceslices.resource.k8s.io", None, None),
        ("list watch create patch", "gpunodes.tessera.dev", None, None),
        ("patch", "gpunodes.tessera.dev/status", None, None),
        ("get", "nodes", None, None),
        ("get list", "resourceclaims.resource.k8s.io", None, None),
        ("create patch", "events.events.k8s.io", None, None),
    ],
    FLEET_SERVICE_ACCOUNT: [
        ("list create patch delete", "resourceslices.resource.k8s.io", None, None),
        ("list watch create patch", "gpunodes.tessera.dev", None, None),
        ("patch", "gpunodes.tessera.dev/status", None, None),
        ("get list watch", "nodes", None, None),
        ("get list watch", "resourceclaims.resource.k8s.io", None, None),
    ],
}

NOBODY: list[Right] = [
    ("get list watch create", "secrets", None, None),
    ("get list watch", "secrets", SYSTEM, None),
    ("get list watch", "configmaps", SYSTEM, None),
    ("create update delete", "pods", None, None),
    ("create get", "pods/exec", None, None),
    ("get", "pods/log", None, None),
    ("create", "pods/binding", None, None),
    ("patch update", "pods/status", None, None),
    ("update patch", "nodes", None, None),
    ("update patch", "nodes/status", None, None),
    ("create", "serviceaccounts/token", None, None),
    ("impersonate", "users", None, None),
    ("create update patch", "clusterroles.rbac.authorization.k8s.io", None, None),
    ("create update patch", "rolebindings.rbac.authorization.k8s.io", None, None),
    ("update patch delete", "validatingadmissionpolicies.admissionregistration.k8s.io", None, None),
    ("update patch delete", "mutatingadmissionpolicybindings.admissionregistration.k8s.io", None, None),
    ("update patch delete create", "customresourcedefinitions.apiextensions.k8s.io", None, None),
    ("create delete", "resourceclaims.resource.k8s.io", None, None),
    ("update delete", "leases.coordination.k8s.io", ELSEWHERE, None),
    ("get update", "leases.coordination.k8s.io", SYSTEM, "somebody-elses"),
    ("delete", "leases.coordination.k8s.io", SYSTEM, None),
    ("update", "leases.coordination.k8s.io", "kube-node-lease", None),
]

REFUSED: dict[str, list[Right]] = {
    names.OPERATOR_SERVICE_ACCOUNT: [
        ("patch update", "resourceclaims.resource.k8s.io", None, None),
        ("patch update", "resourceclaims.resource.k8s.io/status", None, None),
        ("patch update", "resourceclaims.resource.k8s.io/binding", None, None),
        ("patch", "pods", None, None),
        ("create patch update delete", "resourceslices.resource.k8s.io", None, None),
        ("patch update", "gpunodes.tessera.dev/status", None, None),
        ("create update patch delete", "migpartitions.tessera.dev", None, None),
        ("create update patch", "heterogeneoustrainingjobs.tessera.dev", None, None),
        ("delete", "jobs.batch", None, None),
        ("create delete", "gpunodes.tessera.dev", None, None),
        ("get update", "leases.coordination.k8s.io", SYSTEM, names.SCHEDULER_LEASE),
    ],
    names.SCHEDULER_SERVICE_ACCOUNT: [
        ("create update delete", "pods", None, None),
        ("create delete", "resourceclaims.resource.k8s.io", ELSEWHERE, None),
        ("create update patch delete", "resourceslices.resource.k8s.io", None, None),
        ("list watch create patch", "jobs.batch", None, None),
        ("watch patch update", "gpunodes.tessera.dev", None, None),
        ("create update patch delete", "migpartitions.tessera.dev", None, None),
        ("create update patch delete", "deviceclasses.resource.k8s.io", None, None),
        ("get update", "leases.coordination.k8s.io", SYSTEM, names.OPERATOR_LEASE),
    ],
    names.AGENT_SERVICE_ACCOUNT: [
        ("list watch", "pods", None, None),
        ("patch", "pods", None, None),
        ("list", "nodes", None, None),
        ("patch update", "resourceclaims.resource.k8s.io", None, None),
        ("patch update", "resourceclaims.resource.k8s.io/status", None, None),
        ("get delete", "gpunodes.tessera.dev", None, None),
        ("create get update", "leases.coordination.k8s.io", SYSTEM, names.SCHEDULER_LEASE),
    ],
    FLEET_SERVICE_ACCOUNT: [
        ("watch", "resourceslices.resource.k8s.io", None, None),
        ("get delete", "gpunodes.tessera.dev", None, None),
        ("create patch", "events.events.k8s.io", None, None),
        ("patch update", "resourceclaims.resource.k8s.io/status", None, None),
        ("patch", "pods", None, None),
    ],
}


async def verdicts(admin: KubeClient, user: str, groups: list[str], rights: list[Right]) -> dict[str, bool]:
    """The authorizer's answer to each question, by the question."""
    questions: dict[str, dict[str, Any]] = {}
    for verbs, what, namespace, name in rights:
        path, _, subresource = what.partition("/")
        resource, _, group = path.partition(".")
        for verb in verbs.split():
            attributes = {"verb": verb, "resource": resource, "group": group, "subresource": subresource}
            where = {"namespace": namespace, "name": name}
            key = f"{verb} {what} in {namespace or 'all namespaces'} {name or ''}".strip()
            questions[key] = attributes | {field: value for field, value in where.items() if value}

    async def ask(attributes: dict[str, Any]) -> bool:
        spec = {"user": user, "groups": groups, "resourceAttributes": attributes}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await admin.raw("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=body)
        return bool(answer["status"]["allowed"])

    answers = await asyncio.gather(*(ask(attributes) for attributes in questions.values()))
    return dict(zip(questions, answers, strict=True))


def service_account(name: str) -> tuple[str, list[str]]:
    user = f"system:serviceaccount:{SYSTEM}:{name}"
    return user, ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}", "system:authenticated"]


@pytest.mark.parametrize("account", sorted(ALLOWED))
async def test_a_process_may_do_its_work(chart_admin: KubeClient, account: str) -> None:
    answers = await verdicts(chart_admin, *service_account(account), ALLOWED[account])
    assert [question for question, allowed in answers.items() if not allowed] == []


@pytest.mark.parametrize("account", sorted(REFUSED))
async def test_a_process_may_do_no_more(chart_admin: KubeClient, account: str) -> None:
    answers = await verdicts(chart_admin, *service_account(account), [*REFUSED[account], *NOBODY])
    assert [question for question, allowed in answers.items() if allowed] == []


OURS = "heterogeneoustrainingjobs.tessera.dev"
WRITE = "create update patch delete"


@pytest.mark.parametrize(
    ("role", "allowed", "refused"),
    [
        ("view", [("get list watch", OURS, ELSEWHERE, None)], [(WRITE, OURS, ELSEWHERE, None)]),
        (
            "edit",
            [(f"get list watch {WRITE}", OURS, ELSEWHERE, None)],
            [
                ("patch update", f"{OURS}/status", ELSEWHERE, None),
                (WRITE, "migpartitions.tessera.dev", ELSEWHERE, None),
                (WRITE, "gpunodes.tessera.dev", ELSEWHERE, None),
            ],
        ),
        ("admin", [(WRITE, OURS, ELSEWHERE, None)], [(WRITE, "migpartitions.tessera.dev", ELSEWHERE, None)]),
    ],
)
async def test_the_built_in_roles_of_users_know_our_kinds(
    chart_admin: KubeClient, chart_namespace: str, role: str, allowed: list[Right], refused: list[Right]
) -> None:
    user = f"{role}-of-{chart_namespace}"
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{chart_namespace}/rolebindings"
    await chart_admin.raw("POST", path, body=body)

    def here(rights: list[Right]) -> list[Right]:
        return [(verbs, what, chart_namespace, name) for verbs, what, _, name in rights]

    async def granted() -> bool:
        return all((await verdicts(chart_admin, user, [], here(allowed))).values())

    # kube-controller-manager aggregates roles, some time after they were installed.
    await eventually(f"role {role} to grant all of {allowed}", granted)
    denied = await verdicts(chart_admin, user, [], here(refused))
    assert [question for question, answer in denied.items() if answer] == []
