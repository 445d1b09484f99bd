"""Checkpoints: whole or not at all, and what a torn one leads to."""

import struct
from pathlib import Path

import pytest
import torch
from tessera_workloads.checkpoint import Checkpoint, CheckpointStore, decode, encode, weights_hash

FOUR_HUNDRED = struct.pack("<f", 400.0)
"""The bytes of one weight of `checkpoint(400)`."""


def checkpoint(ordinal: int, *, phase: str | None = "train") -> Checkpoint:
    weights = {"w": torch.full((3,), float(ordinal))}
    return Checkpoint(
        configuration={"workload": "example"},
        threads=1,
        phase=phase,
        step=ordinal,
        ordinal=ordinal,
        weights=weights,
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, "0123456789abcdef0123")


def load(store: CheckpointStore) -> tuple[Checkpoint | None, list[str]]:
    said: list[str] = []
    return store.load_newest(report=said.append), said


def test_what_is_saved_is_loaded(store: CheckpointStore) -> None:
    store.save(checkpoint(200))
    found, said = load(store)
    assert found is not None
    assert torch.equal(found.weights["w"], torch.full((3,), 200.0))
    assert (found.step, found.phase, said) == (200, "train", [])


def test_the_newest_two_are_kept_and_no_partial_file_stays(store: CheckpointStore) -> None:
    for ordinal in (200, 400, 600):
        store.save(checkpoint(ordinal))
    assert sorted(path.name for path in store.directory.iterdir()) == [
        "000000400-in-train.ckpt",
        "000000600-in-train.ckpt",
    ]


def test_a_phase_end_is_newer_than_its_last_step(store: CheckpointStore) -> None:
    store.save(checkpoint(600, phase=None))
    store.save(checkpoint(600))
    found, _ = load(store)
    assert found is not None
    assert found.phase is None


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "garbage"])
def test_a_torn_checkpoint_falls_back_to_the_one_before_it(store: CheckpointStore, damage: str) -> None:
    store.save(checkpoint(200))
    newest = store.save(checkpoint(400))
    content = newest.read_bytes()
    torn = {
        "truncate": content[:-100],
        "empty": b"",
        "flip": content.replace(FOUR_HUNDRED, struct.pack("<f", 401.0)),
        "garbage": b"x" * 500,
    }[damage]
    assert torn != content
    newest.write_bytes(torn)
    found, said = load(store)
    assert found is not None
    assert found.step == 200
    assert len(said) == 1
    assert "000000400-in-train.ckpt is unusable" in said[0]
    assert "falling back" in said[0]


def test_nothing_readable_means_a_fresh_start_and_says_so(store: CheckpointStore) -> None:
    store.save(checkpoint(200)).write_bytes(b"")
    found, said = load(store)
    assert found is None
    assert len(said) == 1


def test_two_configurations_never_see_each_others_checkpoints(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, "a" * 64).save(checkpoint(200))
    assert load(CheckpointStore(tmp_path, "b" * 64)) == (None, [])


def test_a_file_that_would_run_code_is_not_unpickled() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("unpickled foreign code",))

    evil = checkpoint(200)
    evil.history = {"x": Evil()}
    with pytest.raises(Exception, match=r"[Ww]eights"):
        decode(encode(evil))


def test_the_weights_hash_sees_one_changed_bit_and_not_the_order() -> None:
    one = {"a": torch.zeros(2), "b": torch.ones(3)}
    reordered = {"b": torch.ones(3), "a": torch.zeros(2)}
    assert weights_hash(one) == weights_hash(reordered)
    changed = {"a": torch.tensor([0.0, -0.0]), "b": torch.ones(3)}
    assert weights_hash(one) != weights_hash(changed)
