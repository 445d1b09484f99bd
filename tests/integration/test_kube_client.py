"""Client, informer and events against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tessera.kube.backoff import Backoff
from tessera.kube.client import KubeClient
from tessera.kube.errors import AlreadyExists, ApiError, Conflict, Gone, Invalid, NotFound
from tessera.kube.events import EventRecorder
from tessera.kube.informer import Informer
from tessera.kube.resources import CONFIG_MAPS, EVENTS, LEASES, NAMESPACES, PODS, Resource

pytestmark = pytest.mark.integration
LIMIT_SECONDS = 20.0


def config_map(name: str, namespace: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"test": "yes"}},
        "data": data,
    }


class Changes:
    """Collects what an informer tells, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def __call__(self, kind: str, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        self.told.append((kind, obj["metadata"]["name"]))
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


async def test_an_object_lives_through_all_verbs(admin: KubeClient, namespace: str) -> None:
    made = await admin.create(CONFIG_MAPS, config_map("a", namespace, x="1"))
    with pytest.raises(AlreadyExists):
        await admin.create(CONFIG_MAPS, config_map("a", namespace))
    written = await admin.replace(CONFIG_MAPS, made | {"data": {"x": "2"}})
    with pytest.raises(Conflict):
        await admin.replace(CONFIG_MAPS, made | {"data": {"x": "3"}})
    await admin.patch(CONFIG_MAPS, "a", namespace=namespace, body={"data": {"y": "1"}})
    await admin.patch(
        CONFIG_MAPS,
        "a",
        namespace=namespace,
        kind="json",
        body=[{"op": "test", "path": "/data/y", "value": "1"}, {"op": "remove", "path": "/data/y"}],
    )
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"x": "9"}}
    with pytest.raises(Conflict):
        await admin.patch(CONFIG_MAPS, "a", namespace=namespace, body=stale)
    assert (await admin.get(CONFIG_MAPS, "a", namespace))["data"] == {"x": "2"}
    with pytest.raises(Conflict):
        await admin.delete(CONFIG_MAPS, "a", namespace=namespace, uid="another")
    await admin.delete(CONFIG_MAPS, "a", namespace=namespace, uid=written["metadata"]["uid"])
    with pytest.raises(NotFound):
        await admin.get(CONFIG_MAPS, "a", namespace)


async def test_apply_owns_its_fields_and_gives_up_what_it_no_longer_names(
    admin: KubeClient, namespace: str
) -> None:
    await admin.apply(CONFIG_MAPS, config_map("a", namespace, x="1", y="1"))
    await admin.patch(CONFIG_MAPS, "a", namespace=namespace, body={"data": {"z": "theirs"}})
    applied = await admin.apply(CONFIG_MAPS, config_map("a", namespace, x="2"))
    assert applied["data"] == {"x": "2", "z": "theirs"}
    with pytest.raises(Conflict):
        await admin.apply(CONFIG_MAPS, config_map("a", namespace, z="ours"), force=False)


async def test_strict_names_the_unknown_field_and_a_dry_run_changes_nothing(
    admin: KubeClient, namespace: str
) -> None:
    with pytest.raises(ApiError, match='unknown field "dota"'):
        await admin.create(CONFIG_MAPS, config_map("a", namespace) | {"dota": {}}, strict=True)
    await admin.create(CONFIG_MAPS, config_map("a", namespace), dry_run=True)
    with pytest.raises(NotFound):
        await admin.get(CONFIG_MAPS, "a", namespace)


async def test_an_invalid_object_is_refused_with_the_servers_words(admin: KubeClient, namespace: str) -> None:
    with pytest.raises(Invalid, match="must be greater than 0"):
        await admin.create(
            LEASES, {"metadata": {"name": "l", "namespace": namespace}, "spec": {"leaseDurationSeconds": 0}}
        )


async def test_lists_of_many_pages_are_complete(
    admin: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.kube.client.PAGE_SIZE", 4)
    names = {f"c{number:02}" for number in range(11)}
    await asyncio.gather(*(admin.create(CONFIG_MAPS, config_map(name, namespace)) for name in names))
    found = await admin.list(CONFIG_MAPS, namespace, label_selector="test=yes")
    assert {item["metadata"]["name"] for item in found.items} == names
    assert {item["kind"] for item in found.items} == {"ConfigMap"}


async def test_a_watch_continues_a_list(admin: KubeClient, namespace: str) -> None:
    found = await admin.list(CONFIG_MAPS, namespace)
    await admin.create(CONFIG_MAPS, config_map("a", namespace))
    await admin.delete(CONFIG_MAPS, "a", namespace=namespace)
    seen: list[tuple[str, str]] = []
    async with asyncio.timeout(LIMIT_SECONDS):
        async for event in admin.watch(CONFIG_MAPS, namespace, resource_version=found.resource_version):
            seen.append((event.type, event.object["metadata"]["name"]))
            if event.type == "DELETED":
                break
    assert seen == [("ADDED", "a"), ("DELETED", "a")]


async def test_an_informer_follows_and_finds_by_index(admin: KubeClient, namespace: str) -> None:
    await admin.create(CONFIG_MAPS, config_map("a", namespace, colour="red"))
    changes = Changes()
    informer = Informer(admin, CONFIG_MAPS, namespace=namespace, label_selector="test=yes", on_change=changes)
    informer.add_index("colour", lambda obj: [(obj.get("data") or {}).get("colour", "none")])
    informer.start()
    await informer.wait_synced(LIMIT_SECONDS)
    assert changes.told == [("ADDED", "a")]
    await admin.create(CONFIG_MAPS, config_map("b", namespace, colour="red"))
    await admin.patch(CONFIG_MAPS, "a", namespace=namespace, body={"data": {"colour": "blue"}})
    await changes.until(lambda: ("MODIFIED", "a") in changes.told)
    assert [obj["metadata"]["name"] for obj in informer.by_index("colour", "red")] == ["b"]
    assert [obj["metadata"]["name"] for obj in informer.by_index("colour", "blue")] == ["a"]
    await admin.delete(CONFIG_MAPS, "b", namespace=namespace)
    await changes.until(lambda: ("DELETED", "b") in changes.told)
    assert informer.get("b", namespace) is None
    assert informer.by_index("colour", "red") == []
    await informer.stop()


class ForgetfulClient(KubeClient):
    """A client whose first watch is told that its resourceVersion is too old, as after a compaction."""

    watches = 0
    before_gone: Callable[[], Any]

    async def watch(self, resource: Resource, namespace: str | None = None, **options: Any) -> Any:
        self.watches += 1
        if self.watches == 1:
            await self.before_gone()
            raise Gone(410, "Expired", "too old resource version")
        async for event in super().watch(resource, namespace, **options):
            yield event


async def test_an_informer_that_lost_its_place_tells_the_difference(
    admin: KubeClient, namespace: str
) -> None:
    for name in ("kept", "changed", "gone"):
        await admin.create(CONFIG_MAPS, config_map(name, namespace))

    async def meanwhile() -> None:
        await admin.delete(CONFIG_MAPS, "gone", namespace=namespace)
        await admin.patch(CONFIG_MAPS, "changed", namespace=namespace, body={"data": {"x": "1"}})
        await admin.create(CONFIG_MAPS, config_map("new", namespace))

    forgetful = ForgetfulClient(admin._transport.credentials)
    forgetful.before_gone = meanwhile
    changes = Changes()
    async with forgetful:
        informer = Informer(
            forgetful,
            CONFIG_MAPS,
            namespace=namespace,
            label_selector="test=yes",
            on_change=changes,
            backoff=Backoff(0.01, 0.1),
        )
        informer.start()
        await informer.wait_synced(LIMIT_SECONDS)
        await changes.until(lambda: ("ADDED", "new") in changes.told)
        await informer.stop()
    assert sorted(changes.told[3:]) == [("ADDED", "new"), ("DELETED", "gone"), ("MODIFIED", "changed")]


async def test_a_missing_kind_is_said_and_waited_for(admin: KubeClient) -> None:
    unknown = Resource("example.com", "v1", "things", "Thing", False)
    informer = Informer(admin, unknown, backoff=Backoff(0.01, 0.1))
    informer.start()
    with pytest.raises(TimeoutError, match="cannot follow things"):
        await informer.wait_synced(0.5)
    await informer.stop()


async def test_the_same_news_becomes_one_series(admin: KubeClient, namespace: str) -> None:
    target = await admin.create(CONFIG_MAPS, config_map("a", namespace))
    recorder = EventRecorder(admin, component="test", instance="pod-1")
    for _ in range(8):
        await recorder.emit(target, type="Warning", reason="Unplaceable", action="Placing", message="no room")
    await recorder.emit(target, type="Normal", reason="Placed", action="Placing", message="on n1")
    await recorder.flush()
    found = (await admin.list(EVENTS, namespace, field_selector="regarding.name=a")).items
    assert sorted((event["reason"], (event.get("series") or {}).get("count")) for event in found) == [
        ("Placed", None),
        ("Unplaceable", 8),
    ]


async def test_news_about_a_cluster_scoped_object_is_kept_in_default(
    admin: KubeClient, namespace: str
) -> None:
    target = await admin.get(NAMESPACES, namespace)
    await EventRecorder(admin, component="test").emit(
        target, type="Normal", reason="Seen", action="Testing", message=namespace
    )
    found = (await admin.list(EVENTS, "default", field_selector=f"regarding.name={namespace}")).items
    assert [event["note"] for event in found] == [namespace]


async def test_an_event_in_a_namespace_that_is_gone_is_only_logged(
    admin: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    ghost = config_map("a", "there-is-no-such-namespace")
    await EventRecorder(admin, component="test").emit(
        ghost, type="Normal", reason="Lost", action="Testing", message="m"
    )
    assert "event Lost on ConfigMap a was lost" in caplog.text


async def test_a_pod_can_be_evicted(admin: KubeClient, namespace: str) -> None:
    await admin.create(
        PODS,
        {
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {
                "schedulingGates": [{"name": "test/never"}],
                "containers": [{"name": "c", "image": "i"}],
            },
        },
    )
    await admin.evict("p", namespace=namespace)
    with pytest.raises(NotFound):
        await admin.get(PODS, "p", namespace)
