"""The device, from what the node agent injects."""

import pytest
from tessera_workloads.device import choose_place, read_slice
from tessera_workloads.errors import InvalidParameter, SliceUnusable

SLICE = {
    "TESSERA_SLICE_PROFILE": "2g.20gb",
    "TESSERA_SLICE_UUID": "MIG-1",
    "TESSERA_SLICE_MEMORY_BYTES": "21066940416",
}


def test_the_slice_is_read_from_the_environment() -> None:
    assert read_slice({}) is None
    held = read_slice(SLICE | {"TESSERA_SIMULATED": "1"})
    assert held is not None
    assert (held.profile, held.uuid, held.memory_bytes, held.simulated) == (
        "2g.20gb",
        "MIG-1",
        21066940416,
        True,
    )


def test_a_simulated_slice_trains_on_the_cpu_and_says_so() -> None:
    place = choose_place(SLICE | {"TESSERA_SIMULATED": "1"}, choice="auto", cuda_available=False)
    assert place.device.type == "cpu"
    assert place.sentence == "slice 2g.20gb is simulated: training on the CPU inside it"


@pytest.mark.parametrize(
    ("environ", "choice", "cuda", "device"),
    [
        ({}, "auto", False, "cpu"),
        ({}, "auto", True, "cuda"),
        ({}, "cpu", True, "cpu"),
        (SLICE, "auto", True, "cuda"),
        (SLICE, "cpu", False, "cpu"),
    ],
)
def test_cuda_where_it_is_unless_the_cpu_is_asked_for(
    environ: dict[str, str], choice: str, cuda: bool, device: str
) -> None:
    assert choose_place(environ, choice=choice, cuda_available=cuda).device.type == device  # type: ignore[arg-type]


def test_a_real_slice_that_torch_cannot_see_is_an_error_not_a_slow_run() -> None:
    with pytest.raises(SliceUnusable, match=r"holds slice 2g\.20gb .* torch sees no CUDA device"):
        choose_place(SLICE, choice="auto", cuda_available=False)
    with pytest.raises(InvalidParameter, match="--device cuda"):
        choose_place({}, choice="cuda", cuda_available=False)
