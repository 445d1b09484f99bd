"""A full disk: what cannot be stored does not happen, and nothing is lost by it."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.agent.claims import PrepareError
from tessera.gpu.simulator import control

Workbench = Any


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


async def test_a_full_disk_undoes_the_preparation(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.transactions._cdi, "write", no_space)
    with pytest.raises(PrepareError, match="No space left"):
        await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    assert bench.layout() == []


async def test_a_missing_spec_that_cannot_be_written_is_told_with_the_remedy(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = bench.claim("a", ("2g.20gb", 4))
    record = await bench.transactions.prepare(claim)
    bench.cdi.remove("uid-a")
    with monkeypatch.context() as full_disk:
        full_disk.setattr(bench.transactions._cdi, "write", no_space)
        with pytest.raises(PrepareError, match="--cdi-dir"):
            await bench.transactions.prepare(claim)
    assert await bench.transactions.prepare(claim) == record
    assert bench.cdi.exists("uid-a")


async def test_a_full_disk_keeps_a_release_from_happening_only_in_memory(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.transactions.prepare(bench.claim("a", ("2g.20gb", 4)))
    with monkeypatch.context() as full_disk:
        full_disk.setattr(bench.transactions._checkpoint, "store", no_space)
        for _ in range(2):
            with pytest.raises(PrepareError, match="No space left"):
                await bench.transactions.release("uid-a")
    assert bench.transactions.ledger.claims.keys() == {"uid-a"}
    assert await bench.transactions.release("uid-a") is not None
    assert bench.checkpoint.load().claims == {}


async def test_a_full_disk_keeps_vanished_slices_until_they_can_be_forgotten_on_disk_too(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.leave_warm("a", "2g.20gb", 4)
    await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 0)))
    control.reset(bench.simulator, index=0)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(bench.transactions._checkpoint, "store", no_space)
        await bench.transactions.refresh()
        with pytest.raises(PrepareError, match="No space left"):
            await bench.transactions.prepare(bench.claim("b", ("2g.20gb", 0)))
    assert bench.transactions.ledger == bench.checkpoint.load()
    await bench.transactions.refresh()
    assert bench.checkpoint.load().warm == {}
