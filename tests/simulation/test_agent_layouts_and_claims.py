"""What claims get on a GPU with a fixed layout, and what they keep."""

from __future__ import annotations

from typing import Any

import pytest
from simulation.agent_serving import APPLIED, HALVES, Serving
from tessera.gpu.simulator import control
from tessera.kube.errors import Unreachable
from tessera.kube.resources import GPU_NODES, RESOURCE_SLICES


async def test_without_a_layout_the_slices_are_cut_on_demand_again(gpu: Serving) -> None:
    await gpu.get(*HALVES)
    gpu.node.api.demand_nothing()
    assert await gpu.look() == {}
    assert len(gpu.offered()) == 25
    assert await gpu.claim("a", "4g.40gb@0") == ""
    assert gpu.stands() == ("4g.40gb@0", "3g.40gb@4")


async def test_a_claim_gets_the_warm_slice_of_the_layout(gpu: Serving) -> None:
    await gpu.get(*HALVES)
    before = gpu.mig_uuids()
    assert await gpu.claim("a", "3g.40gb@4") == ""
    assert await gpu.look() == APPLIED
    assert gpu.mig_uuids() == before


async def test_a_missing_slice_of_the_layout_is_made_for_its_claim(gpu: Serving) -> None:
    """After a reset of the GPU, before the next look."""
    await gpu.get(*HALVES)
    control.reset(gpu.simulator, index=0)
    assert await gpu.claim("a", "3g.40gb@4") == ""
    assert gpu.stands() == ("3g.40gb@4",)
    assert await gpu.look() == APPLIED
    assert gpu.stands() == HALVES


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_slice_beside_the_layout_is_refused_and_takes_nothing_of_it(
    gpu: Serving, restarted: bool
) -> None:
    """Also by an agent that has not looked at the node yet."""
    await gpu.get(*HALVES)
    if restarted:
        gpu.start()
    told = await gpu.claim("late", "2g.20gb@4")
    for words in ("claim default/late", gpu.uuid, "3g.40gb at 0, 3g.40gb at 4", "delete the pod"):
        assert words in told
    assert gpu.stands() == HALVES


async def test_a_claim_waits_while_a_new_agent_cannot_read_the_spec(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.get(*HALVES)
    gpu.start()

    list_all = gpu.node.api.list

    async def unreachable(resource: Any, **options: Any) -> Any:
        if resource is GPU_NODES:
            raise Unreachable("GET /gpunodes", "connection refused")
        return await list_all(resource, **options)

    with monkeypatch.context() as broken:
        broken.setattr(gpu.node.api, "list", unreachable)
        assert "GPUNode node-a could not be read" in await gpu.claim("a", "3g.40gb@4")
    assert await gpu.claim("a", "3g.40gb@4") == ""


async def test_what_is_held_or_warm_beside_a_blocked_layout_is_still_prepared(gpu: Serving) -> None:
    await gpu.look()
    assert await gpu.claim("held", "2g.20gb@4") == ""
    await gpu.leave_warm("warm", "1g.10gb@0")
    await gpu.get(*HALVES)
    before = gpu.mig_uuids()
    gpu.start()
    assert await gpu.claim("held", "2g.20gb@4") == ""
    assert await gpu.claim("placed before", "1g.10gb@0") == ""
    assert [blocker["name"] for blocker in (await gpu.look())["blockers"]] == ["held", "placed before"]
    assert gpu.mig_uuids() == before


async def test_what_goes_is_withdrawn_before_it_is_destroyed(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.get(*HALVES)
    seen = []
    destroy = gpu.driver.destroy_gpu_instance

    async def watched(*arguments: Any, **options: Any) -> None:
        seen.append(tuple(gpu.offered()))
        await destroy(*arguments, **options)

    monkeypatch.setattr(gpu.driver, "destroy_gpu_instance", watched)
    await gpu.get("3g.40gb@0", "2g.20gb@4")
    assert [set(places) for places in seen] == [{"3g.40gb@0", "2g.20gb@4"}]


async def test_a_claim_that_is_prepared_while_its_slice_is_withdrawn_keeps_it(
    gpu: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.look()
    await gpu.leave_warm("warm", "2g.20gb@4")
    gpu.node.allocate("just in time", "2g.20gb@4")
    apply = gpu.node.api.apply

    async def meanwhile(resource: Any, item: dict[str, Any], **options: Any) -> dict[str, Any]:
        if resource is RESOURCE_SLICES:
            assert await gpu.process.prepare("just in time") == {"just in time": ""}
        return await apply(resource, item, **options)

    with monkeypatch.context() as busy:
        busy.setattr(gpu.node.api, "apply", meanwhile)
        assert (await gpu.get(*HALVES))["state"] == "Blocked"
    assert gpu.stands() == ("2g.20gb@4",)
    await gpu.process.unprepare("just in time")
    assert await gpu.look() == APPLIED  # nothing was tried, so nothing has failed
