"""What each board really answers, where public mocks are wrong. Written out, not read from our table.

The known errors: go-nvml's Hopper and Blackwell mocks give 3g a width of 3 slices, 7g of 7 and the
double-memory 1g of 1, use the enum as the id, claim peer-to-peer, and have wrong multiprocessors, engines and
PCI ids; its A100-80GB and A30 mocks have wrong decoders of 1g; NVIDIA's MIG guide has wrong engines for B200
and A30; NVML itself was seen to count A30 instances wrongly. The values here are those of `nvidia-smi mig`
transcripts in public text (`PROVENANCE.md`).
"""

from __future__ import annotations

import ctypes
from typing import Any

import pynvml
import pytest
from tessera.gpu.profiles import models

Shape = tuple[int, int, int, int, tuple[int, ...]]
"""id, compute slices, most instances, width in memory slices, starts"""

EIGHT_SLICES: dict[int, Shape] = {
    0: (19, 1, 7, 1, (0, 1, 2, 3, 4, 5, 6)),
    1: (14, 2, 3, 2, (0, 2, 4)),
    2: (9, 3, 2, 4, (0, 4)),
    3: (5, 4, 1, 4, (0,)),
    4: (0, 7, 1, 8, (0,)),
    7: (20, 1, 1, 1, (0, 1, 2, 3, 4, 5, 6)),
    9: (15, 1, 4, 2, (0, 2, 4, 6)),
}
FOUR_SLICES: dict[int, Shape] = {
    0: (14, 1, 4, 1, (0, 1, 2, 3)),
    1: (5, 2, 2, 2, (0, 2)),
    3: (0, 4, 1, 4, (0,)),
    7: (21, 1, 1, 1, (0, 1, 2, 3)),
    8: (6, 2, 1, 2, (0, 2)),
}
TWELVE_SLICES: dict[int, Shape] = {
    0: (14, 1, 4, 3, (0, 3, 6, 9)),
    1: (5, 2, 2, 6, (0, 6)),
    3: (0, 4, 1, 12, (0,)),
    7: (21, 1, 1, 3, (0, 3, 6, 9)),
    10: (47, 1, 4, 3, (0, 3, 6, 9)),
    11: (35, 2, 2, 6, (0, 6)),
    12: (32, 4, 1, 12, (0,)),
    13: (67, 1, 4, 3, (0, 3, 6, 9)),
    14: (66, 2, 2, 6, (0, 6)),
    15: (65, 1, 1, 3, (0, 3, 6, 9)),
    16: (64, 2, 1, 6, (0, 6)),
}

BOARDS: dict[str, tuple[dict[int, Shape], int, str]] = {
    "A30-24GB": (FOUR_SLICES, 0x20B7, "1g.6gb 2g.12gb 4g.24gb 1g.6gb+me 2g.12gb+me"),
    "A100-40GB": (EIGHT_SLICES, 0x20B0, "1g.5gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb 1g.5gb+me 1g.10gb"),
    "A100-80GB": (EIGHT_SLICES, 0x20B2, "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb 1g.10gb+me 1g.20gb"),
    "H100-80GB": (EIGHT_SLICES, 0x2330, "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb 1g.10gb+me 1g.20gb"),
    "H100-NVL-94GB": (EIGHT_SLICES, 0x2321, "1g.12gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb 1g.12gb+me 1g.24gb"),
    "GH200-96GB": (EIGHT_SLICES, 0x2342, "1g.12gb 2g.24gb 3g.48gb 4g.48gb 7g.96gb 1g.12gb+me 1g.24gb"),
    "GH200-144GB": (EIGHT_SLICES, 0x2348, "1g.18gb 2g.36gb 3g.72gb 4g.72gb 7g.144gb 1g.18gb+me 1g.36gb"),
    "H200-141GB": (EIGHT_SLICES, 0x2335, "1g.18gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb 1g.18gb+me 1g.35gb"),
    "B200-180GB": (EIGHT_SLICES, 0x2901, "1g.23gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb 1g.23gb+me 1g.45gb"),
    "GB200-186GB": (EIGHT_SLICES, 0x2941, "1g.23gb 2g.47gb 3g.93gb 4g.93gb 7g.186gb 1g.23gb+me 1g.47gb"),
    "B300-269GB": (EIGHT_SLICES, 0x3182, "1g.34gb 2g.67gb 3g.135gb 4g.135gb 7g.269gb 1g.34gb+me 1g.67gb"),
    "GB300-278GB": (EIGHT_SLICES, 0x31C2, "1g.35gb 2g.70gb 3g.139gb 4g.139gb 7g.278gb 1g.35gb+me 1g.70gb"),
    "RTXPRO6000-96GB": (
        TWELVE_SLICES,
        0x2BB5,
        "1g.24gb 2g.48gb 4g.96gb 1g.24gb+me 1g.24gb+gfx 2g.48gb+gfx 4g.96gb+gfx 1g.24gb-me 2g.48gb-me "
        "1g.24gb+me.all 2g.48gb+me.all",
    ),
}

Engines = tuple[int, int, int, int, int, int]
"""multiprocessors, copy engines, decoders, encoders, JPEG engines, optical flow engines"""

_HOPPER: dict[str, Engines] = {
    "3g": (60, 3, 3, 0, 3, 0),
    "4g": (64, 4, 4, 0, 4, 0),
    "7g": (132, 8, 7, 0, 7, 1),
}
_AMPERE: dict[str, Engines] = {
    "2g": (28, 2, 1, 0, 0, 0),
    "3g": (42, 3, 2, 0, 0, 0),
    "4g": (56, 4, 2, 0, 0, 0),
    "7g": (98, 7, 5, 0, 1, 1),
}
TRANSCRIPTS: dict[str, dict[str, Engines]] = {
    "A30-24GB": {
        "1g.6gb": (14, 1, 1, 0, 0, 0),
        "1g.6gb+me": (14, 1, 1, 0, 1, 1),
        "2g": (28, 2, 2, 0, 0, 0),
        "4g": (56, 4, 4, 0, 1, 1),
    },
    "A100-40GB": {"1g.5gb": (14, 1, 0, 0, 0, 0), "1g.5gb+me": (14, 1, 1, 0, 1, 1), **_AMPERE},
    "A100-80GB": {"1g.10gb": (14, 1, 0, 0, 0, 0), "1g.10gb+me": (14, 1, 1, 0, 1, 1), **_AMPERE},
    "H100-80GB": {
        "1g.10gb": (16, 1, 1, 0, 1, 0),
        "1g.10gb+me": (16, 1, 1, 0, 1, 1),
        "1g.20gb": (26, 1, 1, 0, 1, 0),
        "2g": (32, 2, 2, 0, 2, 0),
        **_HOPPER,
    },
    "H100-NVL-94GB": _HOPPER,
    "GH200-96GB": {"2g": (32, 2, 2, 0, 2, 0), **_HOPPER},
    "GH200-144GB": {
        "1g.18gb": (16, 1, 1, 0, 1, 0),
        "1g.36gb": (26, 1, 1, 0, 1, 0),
        "2g": (32, 2, 2, 0, 2, 0),
    },
    "H200-141GB": {
        "1g.18gb": (16, 1, 1, 0, 1, 0),
        "1g.35gb": (26, 1, 1, 0, 1, 0),
        "2g": (32, 2, 2, 0, 2, 0),
        **_HOPPER,
    },
    "B200-180GB": {
        "1g.23gb": (18, 2, 1, 0, 1, 0),
        "1g.23gb+me": (18, 2, 1, 0, 1, 1),
        "1g.45gb": (30, 2, 1, 0, 1, 0),
        "2g": (36, 4, 2, 0, 2, 0),
    },
    "GB200-186GB": {
        "1g.23gb": (18, 2, 1, 0, 1, 0),
        "1g.47gb": (32, 2, 1, 0, 1, 0),
        "2g": (38, 4, 2, 0, 2, 0),
    },
    "RTXPRO6000-96GB": {
        "1g.24gb": (46, 1, 1, 1, 1, 0),
        "1g.24gb-me": (46, 1, 0, 0, 0, 0),
        "1g.24gb+me.all": (46, 1, 4, 4, 4, 1),
        "2g.48gb": (94, 2, 2, 2, 2, 0),
        "4g.96gb": (188, 4, 4, 4, 4, 1),
    },
}
"""A name without its memory is the board's only such profile. B300 and GB300 have no transcript."""


def profiles(gpu: Any) -> dict[int, Any]:
    """Every profile that the simulated driver offers, by enum."""
    found = {}
    for enum in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            found[enum] = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, enum)
        except pynvml.NVMLError_NotSupported:
            continue
    return found


def shape(gpu: Any, info: Any) -> Shape:
    count = ctypes.c_uint(16)
    buffer = (pynvml.c_nvmlGpuInstancePlacement_t * 16)()
    pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, info.id, buffer, ctypes.byref(count))
    found = buffer[: count.value]
    (width,) = {item.size for item in found}
    return info.id, info.sliceCount, info.instanceCount, width, tuple(item.start for item in found)


def name(info: Any) -> str:
    text = info.name.decode() if isinstance(info.name, bytes) else info.name
    return str(text).removeprefix("MIG ")


def _without_memory(profile: str) -> str:
    """`3g` for a plain 3g.40gb; media and graphics profiles keep their name."""
    return profile.partition(".")[0] if "+" not in profile and "-" not in profile else profile


def test_every_board_of_the_table_is_checked() -> None:
    assert BOARDS.keys() == models().keys()


@pytest.mark.parametrize("board", BOARDS)
def test_profiles_have_their_true_ids_names_widths_and_starts(bind: Any, board: str) -> None:
    bind(board)
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    shapes, pci_id, names = BOARDS[board]
    found = profiles(gpu)
    assert {enum: shape(gpu, info) for enum, info in found.items()} == shapes
    assert [name(info) for info in found.values()] == names.split()
    assert pynvml.nvmlDeviceGetPciInfo(gpu).pciDeviceId == pci_id << 16 | 0x10DE
    assert {info.isP2pSupported for info in found.values()} == {0}


@pytest.mark.parametrize("board", TRANSCRIPTS)
def test_profiles_have_the_multiprocessors_and_engines_of_the_transcripts(bind: Any, board: str) -> None:
    bind(board)
    found = {}
    for info in profiles(pynvml.nvmlDeviceGetHandleByIndex(0)).values():
        found[name(info)] = (
            info.multiprocessorCount,
            info.copyEngineCount,
            info.decoderCount,
            info.encoderCount,
            info.jpegCount,
            info.ofaCount,
        )
    for wanted, engines in TRANSCRIPTS[board].items():
        values = {value for key, value in found.items() if wanted in (key, _without_memory(key))}
        assert values == {engines}, wanted


def test_an_a30_holds_as_many_instances_as_it_says(bind: Any) -> None:
    """NVML on a real A30 was seen to report a wrong count; the simulated one does not copy that."""
    bind("A30-24GB")
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    for info in profiles(gpu).values():
        made = []
        for _ in range(info.instanceCount):
            made.append(pynvml.nvmlDeviceCreateGpuInstance(gpu, info.id))
        with pytest.raises(pynvml.NVMLError_InsufficientResources):
            pynvml.nvmlDeviceCreateGpuInstance(gpu, info.id)
        for instance in made:
            pynvml.nvmlGpuInstanceDestroy(instance)
