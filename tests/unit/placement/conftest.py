"""The geometries of the check values: W8 (A100, H100, H200, B200) and W4 (A30)."""

from __future__ import annotations

import pytest
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of

# profile: (starts, memory slices, compute slices); NVIDIA's tables, the same that NVML reports for an
# H100-80GB.
W8 = {
    "1g.10gb": ((0, 1, 2, 3, 4, 5, 6), 1, 1),
    "2g.20gb": ((0, 2, 4), 2, 2),
    "3g.40gb": ((0, 4), 4, 3),
    "4g.40gb": ((0,), 4, 4),
    "7g.80gb": ((0,), 8, 7),
}
DOUBLE = {"1g.20gb": ((0, 2, 4, 6), 2, 1)}
W8_MEDIA = {"1g.10gb+me": ((0, 1, 2, 3, 4, 5, 6), 1, 1)}
W4 = {"1g.6gb": ((0, 1, 2, 3), 1, 1), "2g.12gb": ((0, 2), 2, 2), "4g.24gb": ((0,), 4, 4)}
W4_MEDIA = {"1g.6gb+me": ((0, 1, 2, 3), 1, 1), "2g.12gb+me": ((0, 2), 2, 2)}

Table = dict[str, tuple[tuple[int, ...], int, int]]


def geometry(
    table: Table, *, slices: int, model: str = "test", exclusive: dict[str, str] | None = None
) -> Geometry:
    """A geometry from a table; `exclusive` maps a profile to the resource that only one instance may have."""
    groups = exclusive or {}
    return geometry_of(
        model=model,
        memory_slices=slices,
        compute_slices=7 if slices == 8 else 4,
        placements=tuple(
            LegalPlacement(profile, start, width, compute, (groups[profile],) if profile in groups else ())
            for profile, (starts, width, compute) in table.items()
            for start in starts
        ),
    )


@pytest.fixture(scope="session")
def w8() -> Geometry:
    return geometry(W8, slices=8, model="W8")


@pytest.fixture(scope="session")
def w8_double() -> Geometry:
    return geometry(W8 | DOUBLE, slices=8, model="W8 with double")


@pytest.fixture(scope="session")
def w8_all() -> Geometry:
    exclusive = {"1g.10gb+me": "media-extensions"}
    return geometry(W8 | DOUBLE | W8_MEDIA, slices=8, model="W8 with all", exclusive=exclusive)


@pytest.fixture(scope="session")
def w4() -> Geometry:
    """An A30: each of its two media profiles exists at most once, as the driver's instance maxima say."""
    return geometry(W4 | W4_MEDIA, slices=4, model="W4", exclusive={name: name for name in W4_MEDIA})
