"""A damaged checkpoint is told from a good one, and the ledger is rebuilt from what else remembers."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.agent.checkpoint import DamagedCheckpoint, Ledger, Phase
from tessera.agent.claims import AllocatedClaim
from tessera.agent.recovery import published_uuids, rebuild
from tessera.gpu.simulator.faults import Fault

Workbench = Any


def rebuilt(
    bench: Workbench,
    *,
    claims: tuple[AllocatedClaim, ...] = (),
    published: frozenset[str] | set[str] = frozenset(),
) -> Ledger:
    return rebuild(
        gpus=bench.nvml.inventory().gpus, specs=bench.cdi.records(), claims=claims, published=set(published)
    )


async def test_a_missing_checkpoint_is_an_empty_ledger(bench: Workbench) -> None:
    ledger = bench.checkpoint.load()
    assert (ledger.claims, ledger.warm) == ({}, {})


async def test_every_torn_or_changed_file_is_noticed(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    path = bench.checkpoint.path
    whole = path.read_text()
    for text in (
        "",
        whole[: len(whole) // 2],
        whole[:-2],
        "[]",
        '{"data": {}}',
        whole.replace("default", "defaulx"),
    ):
        path.write_text(text)
        with pytest.raises(DamagedCheckpoint):
            bench.checkpoint.load()
    path.write_text(whole)
    assert bench.checkpoint.load().claims.keys() == {"uid-a"}


async def test_a_checkpoint_of_another_version_is_not_guessed_at(bench: Workbench) -> None:
    import hashlib
    import json

    data = {"version": 99, "claims": [], "warm": []}
    checksum = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    bench.checkpoint.path.write_text(json.dumps({"checksum": checksum, "data": data}))
    with pytest.raises(DamagedCheckpoint, match="version 99"):
        bench.checkpoint.load()


async def test_a_damaged_checkpoint_is_kept_for_inspection(bench: Workbench) -> None:
    bench.checkpoint.path.write_text("torn")
    aside = bench.checkpoint.set_aside()
    assert aside.read_text() == "torn"
    with pytest.raises(DamagedCheckpoint):
        bench.checkpoint.load()
    bench.checkpoint.store(Ledger())
    assert aside.read_text() == "torn"


async def test_prepared_claims_come_back_from_their_cdi_specs(bench: Workbench) -> None:
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    assert rebuilt(bench).claims == {"uid-a": record}


async def test_a_spec_whose_instance_is_gone_is_forgotten(bench: Workbench) -> None:
    from tessera.gpu.simulator import control

    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    control.reset(bench.simulator, index=0)
    assert rebuilt(bench).claims == {}


async def test_a_gpu_that_does_not_answer_refutes_no_spec(bench: Workbench) -> None:
    record = await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    bench.fail(Fault("nvmlDeviceGetMigMode", code=999))
    assert rebuilt(bench).claims == {"uid-a": record}


async def test_warm_slices_come_back_from_the_published_status(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    await bench.transactions.release("uid-a")
    (uuid,) = bench.transactions.ledger.warm
    assert rebuilt(bench, published={uuid}).warm == bench.transactions.ledger.warm


async def test_an_instance_that_nobody_claims_stays_foreign(bench: Workbench) -> None:
    await bench.driver.create_gpu_instance(bench.gpu().uuid, profile_id=14, start=4, size=2)
    ledger = rebuilt(bench, claims=(bench.claim("a", ("2g.20gb", 0)),))
    assert (ledger.claims, ledger.warm) == ({}, {})


async def test_a_half_made_instance_of_an_allocated_claim_is_undone(bench: Workbench) -> None:
    await bench.driver.create_gpu_instance(bench.gpu().uuid, profile_id=14, start=4, size=2)
    ledger = rebuilt(bench, claims=(bench.claim("a", ("2g.20gb", 4)),))
    assert ledger.claims["uid-a"].phase is Phase.PREPARING
    await bench.transactions.adopt(ledger)
    await bench.transactions.refresh()
    assert bench.layout() == []


async def test_a_whole_instance_of_an_allocated_claim_is_kept_for_it(bench: Workbench) -> None:
    claim = bench.claim("a", ("2g.20gb", 4))
    record = await bench.transactions.prepare(claim)
    bench.cdi.remove("uid-a")
    await bench.transactions.adopt(rebuilt(bench, claims=(claim,)))
    again = await bench.transactions.prepare(claim)
    assert again.devices[0].slice == record.devices[0].slice


async def test_an_unreadable_spec_costs_only_its_own_claim(bench: Workbench) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 0)))
    (bench.directory / "cdi" / "gpu.tessera.dev-claim-uid-a.json").write_text("{")
    assert rebuilt(bench).claims.keys() == {"uid-b"}


def test_foreign_instances_of_the_status_are_no_witnesses() -> None:
    instances = [
        {"uuid": "MIG-1", "state": "InUse"},
        {"uuid": "MIG-2", "state": "Warm"},
        {"uuid": "MIG-3", "state": "Foreign"},
        {"state": "Warm"},
    ]
    gpu_node = {"status": {"gpus": [{"instances": instances}]}}
    assert published_uuids(gpu_node, "InUse", "Warm") == {"MIG-1", "MIG-2"}
    assert published_uuids(gpu_node, "Foreign") == {"MIG-3"}
    assert published_uuids(None, "InUse", "Warm") == set()
