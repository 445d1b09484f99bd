"""The tensor-byte counter against sums by hand, and the simulated slice's limit."""

import pytest
import torch
from tessera_workloads.errors import ExitCode, OutOfMemory
from tessera_workloads.memory import TensorBytes

MIB = 2**20


def mib(count: int) -> torch.Tensor:
    return torch.zeros(count * MIB, dtype=torch.uint8)


def test_peak_counts_what_is_alive_at_once() -> None:
    counter = TensorBytes()
    with counter:
        first = mib(3)
        second = mib(2)
        del second
        third = mib(1)
    assert counter.peak == 5 * MIB
    assert counter.current == 4 * MIB
    del first, third
    assert counter.current == 0


def test_views_and_in_place_results_are_not_counted_twice() -> None:
    counter = TensorBytes()
    with counter:
        base = mib(1)
        view = base[: MIB // 2].view(-1)
        view.add_(1)
    assert counter.peak == MIB


def test_what_autograd_keeps_for_the_backward_pass_is_counted() -> None:
    weight = torch.ones(MIB // 4, requires_grad=True)
    counter = TensorBytes()
    counter.include([weight])
    with counter:
        loss = (weight.exp().exp()).sum()
        held = counter.current
        loss.backward()  # type: ignore[no-untyped-call]
    # weight, both exponentials (each is saved for its own derivative) and the scalar
    assert held == 3 * MIB + 4
    assert counter.peak > held


def test_beyond_the_simulated_slices_memory_it_raises_as_cuda_would() -> None:
    counter = TensorBytes(limit_bytes=2 * MIB)
    with (
        pytest.raises(OutOfMemory, match="tensors need 3 MiB, the simulated slice has 2 MiB") as full,
        counter,
    ):
        mib(1)
        mib(3)
    assert full.value.exit_code == ExitCode.OUT_OF_MEMORY
