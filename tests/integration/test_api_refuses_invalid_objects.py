"""Every way to write a wrong object that a schema or a CEL rule catches: refused, with words that help."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tessera.api.names import API_VERSION
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, MIG_PARTITIONS, Resource

pytestmark = pytest.mark.integration
Object = dict[str, Any]

PARTITION: Object = {
    "apiVersion": API_VERSION,
    "kind": "MIGPartition",
    "metadata": {"name": "p"},
    "spec": {},
}
JOB: Object = {
    "apiVersion": API_VERSION,
    "kind": "HeterogeneousTrainingJob",
    "metadata": {"name": "train", "namespace": "default"},
    "spec": {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "2g.20gb"}}},
}
NODE: Object = {
    "apiVersion": API_VERSION,
    "kind": "GPUNode",
    "metadata": {"name": "n"},
    "spec": {"gpus": [{"uuid": "GPU-1", "partition": "p"}]},
}
REMOVED = object()


def changed(base: Object, path: str, value: object) -> Object:
    """`base` with the field at `path` (dots, indexes in brackets) set, or removed for REMOVED."""
    obj = copy.deepcopy(base)
    *parents, last = [
        int(p) if p.isdigit() else p for p in path.replace("[", ".").replace("]", "").split(".")
    ]
    place: Any = obj
    for part in parents:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return obj


PROFILE_WORDS = "is not the name of a MIG profile; write it as NVIDIA does, such as 2g.20gb or 1g.10gb+me"
QUANTITY_WORDS = "not a quantity above zero; write it as Kubernetes does, such as 2, 500m or 4Gi"
MEMORY_WORDS = "less than 64Mi, with which no container starts; give the worker some Gi, such as 4Gi"
NAME_WORDS = "metadata.name becomes part of pod names and labels: at most 52 characters"

JOB_CASES: list[tuple[str, object, str]] = [
    ("spec", REMOVED, "spec: Required value"),
    ("spec.workload", REMOVED, "spec.workload: Required value"),
    ("spec.workload.name", REMOVED, "spec.workload.name: Required value"),
    ("spec.workload.name", "NoiSER", "small letters, digits and hyphens, such as noiser"),
    ("spec.workload.name", "-x", "small letters, digits and hyphens, such as noiser"),
    ("spec.workload.name", "a" * 64, "Too long"),
    ("spec.workload.name", 7, "must be of type string"),
    ("spec.workload.size", "tiny", 'supported values: "ci", "slice", "full"'),
    ("spec.workload.parameters", ["steps=5"], "must be of type object"),
    ("spec.workload.parameters", {f"p{i}": i for i in range(65)}, "must have at most 64 items"),
    ("spec.workload.colour", "red", 'unknown field "spec.workload.colour"'),
    ("spec.resources", REMOVED, "spec.resources: Required value"),
    ("spec.resources", {}, "spec.resources.slice: Required value"),
    ("spec.resources.slice", {}, "spec.resources.slice.profile: Required value"),
    ("spec.resources.slice.profile", "2g", f"'2g' {PROFILE_WORDS}, or gpu for a GPU whose MIG mode is off"),
    ("spec.resources.slice.profile", "mig-2g.20gb", f"'mig-2g.20gb' {PROFILE_WORDS}"),
    ("spec.resources.slice.profile", "0g.5gb", PROFILE_WORDS),
    ("spec.resources.slice.profile", "2g.20GB", PROFILE_WORDS),
    ("spec.resources.slice.profile", "1g.10gb+em", PROFILE_WORDS),
    ("spec.resources.slice.profile", "", PROFILE_WORDS),
    ("spec.resources.slice.profile", 2, "must be of type string"),
    ("spec.resources.cpu", 0, QUANTITY_WORDS),
    ("spec.resources.cpu", -1, QUANTITY_WORDS),
    ("spec.resources.cpu", "0m", QUANTITY_WORDS),
    ("spec.resources.cpu", "two", QUANTITY_WORDS),
    ("spec.resources.cpu", 1.5, "spec.resources.cpu: Invalid value"),
    ("spec.resources.hostMemory", "4 GiB", QUANTITY_WORDS),
    ("spec.resources.hostMemory", "-1Gi", QUANTITY_WORDS),
    ("spec.resources.hostMemory", "1Mi", MEMORY_WORDS),
    ("spec.resources.hostMemory", "100m", MEMORY_WORDS),
    ("spec.resources.hostMemory", "63.9Mi", MEMORY_WORDS),
    ("spec.resources.hostMemory", 64 * 2**20 - 1, MEMORY_WORDS),
    ("spec.resources.hostmemory", "4Gi", 'unknown field "spec.resources.hostmemory"'),
    ("spec.seed", -1, "should be greater than or equal to 0"),
    ("spec.seed", "7", "must be of type integer"),
    ("spec.seed", 2**31, "should be less than or equal to"),
    ("spec.image", "", "should be at least 1 chars long"),
    ("spec.checkpoint", {}, "spec.checkpoint.everySteps: Required value"),
    ("spec.checkpoint.everySteps", 0, "should be greater than or equal to 1"),
    ("spec.output", {}, "spec.output.persistentVolumeClaim: Required value"),
    ("spec.output.persistentVolumeClaim", "", "should be at least 1 chars long"),
    ("spec.suspend", "yes", "must be of type boolean"),
    ("spec.backoffLimit", -1, "should be greater than or equal to 0"),
    ("spec.backoffLimit", 101, "should be less than or equal to 100"),
    ("spec.activeDeadlineSeconds", 0, "should be greater than or equal to 1"),
    ("spec.ttlSecondsAfterFinished", -5, "should be greater than or equal to 0"),
    ("spec.sliceProfile", "2g.20gb", 'unknown field "spec.sliceProfile"'),
    ("metadata.name", "a" * 53, NAME_WORDS),
    ("metadata.name", "1st", NAME_WORDS),
    ("metadata.name", "with.dot", NAME_WORDS),
]
PARTITION_CASES: list[tuple[str, object, str]] = [
    ("spec", REMOVED, "spec: Required value"),
    ("spec.mode", "auto", 'supported values: "dynamic", "static"'),
    ("spec.mode", "static", "mode static needs static.layout, the list of slices of one GPU"),
    ("spec.static", {"layout": [{"profile": "3g.40gb"}]}, "set mode: static or remove static"),
    ("spec.update", {"maxUnavailable": 2}, "set mode: static or migMode: Disabled"),
    ("spec.gpus", {}, "give models or indexes, or leave gpus out to select every GPU of the nodes"),
    ("spec.dynamic.defragmentation", {}, "give moves with per100Placements above 0"),
    (
        "spec.dynamic",
        {"moves": {"per100Placements": 0}, "defragmentation": {}},
        "or remove defragmentation",
    ),
    (
        "spec.dynamic",
        {"moves": {}, "defragmentation": {"everySeconds": 59}},
        "should be greater than or equal to 60",
    ),
    ("spec.gpus.models", [], "should have at least 1 items"),
    ("spec.gpus.indexes", [-1], "should be greater than or equal to 0"),
    ("spec.gpus.indexes", ["0"], "must be of type integer"),
    ("spec.gpus.model", "H100", 'unknown field "spec.gpus.model"'),
    ("spec.migMode", "On", 'supported values: "Enabled", "Disabled", "Unmanaged"'),
    ("spec.dryRun", "true", "must be of type boolean"),
    ("spec.dynamic.reserves", [{"profile": "big"}], f"'big' {PROFILE_WORDS}"),
    ("spec.dynamic.reserves", [{"profile": "gpu"}], f"'gpu' {PROFILE_WORDS}"),
    ("spec.dynamic.reserves", [{"profile": "1g.10gb", "count": 0}], "should be greater than or equal to 1"),
    ("spec.dynamic.reserves", [{"count": 1}], "spec.dynamic.reserves[0].profile: Required value"),
    (
        "spec.dynamic.reserves",
        [{"profile": "1g.10gb"}, {"profile": "1g.10gb", "count": 2}],
        "Duplicate value",
    ),
    (
        "spec.nodeSelector.matchExpressions",
        [{"key": "a", "operator": "In"}],
        "operators In and NotIn need values; Exists and DoesNotExist must have none",
    ),
    (
        "spec.nodeSelector.matchExpressions",
        [{"key": "a", "operator": "Exists", "values": ["b"]}],
        "operators In and NotIn need values; Exists and DoesNotExist must have none",
    ),
    (
        "spec.nodeSelector.matchExpressions",
        [{"key": "a", "operator": "Gt", "values": ["1"]}],
        'supported values: "In", "NotIn", "Exists", "DoesNotExist"',
    ),
    ("spec.nodeSelector.pool", "a", 'unknown field "spec.nodeSelector.pool"'),
]
UNAVAILABLE_WORDS = "not a number of nodes from 1, nor a percentage from 1% to 100%"
STATIC = changed(changed(PARTITION, "spec.mode", "static"), "spec.static.layout", [{"profile": "3g.40gb"}])
STATIC_CASES: list[tuple[str, object, str]] = [
    ("spec.static.layout", [], "should have at least 1 items"),
    ("spec.static.layout[0].profile", "3g.40", PROFILE_WORDS),
    ("spec.static.layout[0].start", -1, "should be greater than or equal to 0"),
    (
        "spec.static.layout",
        [{"profile": "1g.10gb", "start": 0, "count": 2}],
        "start names one place, so it cannot go with a count above 1; write one item per start",
    ),
    ("spec.dynamic", {}, "dynamic is given but mode is static: set mode: dynamic or remove dynamic"),
    ("spec.migMode", "Disabled", "mode static needs MIG: set migMode to Enabled or Unmanaged"),
    ("spec.update.maxUnavailable", 0, UNAVAILABLE_WORDS),
    ("spec.update.maxUnavailable", "0%", UNAVAILABLE_WORDS),
    ("spec.update.maxUnavailable", "101%", UNAVAILABLE_WORDS),
    ("spec.update.maxUnavailable", "3", UNAVAILABLE_WORDS),
    ("spec.update.drain.policy", "Delete", 'supported values: "Never", "Evict"'),
    ("spec.update.drain.timeoutSeconds", 0, "should be greater than or equal to 1"),
    ("spec.update.drain.timeout", "10m", 'unknown field "spec.update.drain.timeout"'),
]
NODE_CASES: list[tuple[str, object, str]] = [
    ("spec.gpus[0].uuid", REMOVED, "spec.gpus[0].uuid: Required value"),
    ("spec.gpus[0].partition", REMOVED, "spec.gpus[0].partition: Required value"),
    ("spec.gpus[0].layout", [{"profile": "1g.10gb"}], "spec.gpus[0].layout[0].start: Required value"),
    ("spec.gpus[0].mode", "auto", 'unknown field "spec.gpus[0].mode"'),
    (
        "spec.gpus",
        [{"uuid": "GPU-1", "partition": "p"}, {"uuid": "GPU-1", "partition": "q"}],
        "Duplicate value",
    ),
]


def table() -> list[Any]:
    rows = []
    for resource, base, cases in (
        (HETEROGENEOUS_TRAINING_JOBS, JOB, JOB_CASES),
        (MIG_PARTITIONS, PARTITION, PARTITION_CASES),
        (MIG_PARTITIONS, STATIC, STATIC_CASES),
        (GPU_NODES, NODE, NODE_CASES),
    ):
        for path, value, words in cases:
            shown = "removed" if value is REMOVED else str(value)[:40]
            rows.append(
                pytest.param(resource, changed(base, path, value), words, id=f"{base['kind']} {path}={shown}")
            )
    return rows


@pytest.mark.parametrize(("resource", "obj", "words"), table())
async def test_the_api_server_refuses_it_and_says_what_to_do(
    admin: KubeClient, resource: Resource, obj: Object, words: str
) -> None:
    with pytest.raises(ApiError) as refused:
        await admin.create(resource, obj, strict=True, dry_run=True)
    assert refused.value.status in (400, 422)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("resource", "obj"),
    [
        (HETEROGENEOUS_TRAINING_JOBS, JOB),
        (MIG_PARTITIONS, PARTITION),
        (MIG_PARTITIONS, STATIC),
        *(
            (MIG_PARTITIONS, changed(STATIC, "spec.update.maxUnavailable", nodes))
            for nodes in (7, "1%", "100%")
        ),
        (GPU_NODES, NODE),
        (GPU_NODES, changed(NODE, "spec", REMOVED)),
        *(
            (HETEROGENEOUS_TRAINING_JOBS, changed(JOB, path, value))
            for path, value in (
                ("spec.resources.cpu", 3),
                ("spec.resources.cpu", "250m"),
                ("spec.resources.hostMemory", 4 * 2**30),
                ("spec.resources.hostMemory", "64Mi"),
                ("spec.resources.slice.profile", "1g.24gb+me.all"),
                ("spec.resources.slice.profile", "gpu"),
                ("spec.workload.parameters", {"a": 1, "b": 0.5, "c": True, "d": "x"}),
                ("metadata.name", "a" * 52),
            )
        ),
    ],
)
async def test_what_differs_from_the_refused_objects_only_in_the_error_is_accepted(
    admin: KubeClient, resource: Resource, obj: Object
) -> None:
    made = await admin.create(resource, obj, strict=True, dry_run=True)
    assert made["metadata"]["name"] == obj["metadata"]["name"]


async def test_defaults_are_filled_in_by_the_api_server(admin: KubeClient) -> None:
    job = await admin.create(HETEROGENEOUS_TRAINING_JOBS, JOB, dry_run=True)
    assert job["spec"] == {
        "workload": {"name": "noiser", "size": "slice"},
        "seed": 0,
        "resources": {"slice": {"profile": "2g.20gb"}, "cpu": 1, "hostMemory": "4Gi"},
        "suspend": False,
        "backoffLimit": 3,
    }
    partition = await admin.create(MIG_PARTITIONS, PARTITION, dry_run=True)
    assert partition["spec"] == {"mode": "dynamic", "migMode": "Enabled", "dryRun": False}


FULL = changed(
    changed(
        changed(JOB, "spec.output.persistentVolumeClaim", "out"), "spec.workload.parameters", {"steps": 5}
    ),
    "spec.checkpoint.everySteps",
    10,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workload", {"name": "other"}),
        ("workload", {"size": "full"}),
        ("workload", {"parameters": {"steps": 6}}),
        ("workload", {"parameters": {"rate": 0.5}}),
        ("resources", {"slice": {"profile": "3g.40gb"}}),
        ("resources", {"cpu": 2}),
        ("seed", 1),
        ("output", {"persistentVolumeClaim": "elsewhere"}),
        ("output", None),
        ("image", "other:1"),
        ("checkpoint", {"everySteps": 20}),
        ("checkpoint", None),
    ],
)
async def test_what_decides_the_result_cannot_change(
    admin: KubeClient, namespace: str, field: str, value: object
) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, changed(FULL, "metadata.namespace", namespace))
    with pytest.raises(ApiError) as refused:
        await admin.patch(
            HETEROGENEOUS_TRAINING_JOBS, "train", namespace=namespace, body={"spec": {field: value}}
        )
    assert refused.value.status == 422
    assert f"spec.{field} cannot change" in refused.value.message
    assert "make a new job with another name" in refused.value.message


@pytest.mark.parametrize(
    "body",
    [
        {"spec": {"suspend": True}},
        {"spec": {"backoffLimit": 9}},
        {"spec": {"activeDeadlineSeconds": 60}},
        {"spec": {"ttlSecondsAfterFinished": 60}},
        {"metadata": {"labels": {"team": "a"}}},
    ],
)
async def test_what_decides_when_it_runs_can_change(admin: KubeClient, namespace: str, body: Object) -> None:
    await admin.create(HETEROGENEOUS_TRAINING_JOBS, changed(FULL, "metadata.namespace", namespace))
    await admin.patch(HETEROGENEOUS_TRAINING_JOBS, "train", namespace=namespace, body=body)
