"""Device names: DNS labels that can be read back by the profile table."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tessera.gpu.device_names import (
    BadDeviceName,
    DeviceName,
    counter_set_name,
    decode,
    encode,
    short_uuid,
    slug,
)
from tessera.gpu.profiles import models

_PLACEMENTS = [
    (profile.name, start)
    for model in models().values()
    for profile in model.profiles
    for start in profile.starts
]


@given(st.uuids(), st.sampled_from(_PLACEMENTS))
def test_every_placement_of_every_board_reads_back(identity: object, placement: tuple[str, int]) -> None:
    profile, start = placement
    name = encode(gpu_uuid=f"GPU-{identity}", profile=profile, start=start)
    assert decode(name) == DeviceName(gpu=str(identity)[:8], profile=profile, start=start)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


def test_profiles_of_one_model_never_share_a_slug() -> None:
    for model in models().values():
        assert len({slug(profile.name) for profile in model.profiles}) == len(model.profiles)


def test_with_and_without_media_engines_have_different_names() -> None:
    uuid = "GPU-1f3c9a2e-0000-0000-0000-000000000000"
    with_media = encode(gpu_uuid=uuid, profile="1g.24gb+me", start=3)
    without = encode(gpu_uuid=uuid, profile="1g.24gb-me", start=3)
    assert with_media == "gpu-1f3c9a2e-1g-24gb-me-3"
    assert without == "gpu-1f3c9a2e-1g-24gb-no-me-3"


def test_a_name_is_read_by_the_given_profiles_only() -> None:
    name = "gpu-1f3c9a2e-2g-20gb-4"
    assert decode(name, ["2g.20gb"]).profile == "2g.20gb"
    with pytest.raises(BadDeviceName, match="unknown profile slug '2g-20gb'"):
        decode(name, ["1g.10gb"])


@pytest.mark.parametrize(
    "name", ["", "gpu-0", "gpu-1f3c9a2-2g-20gb-4", "gpu-1f3c9a2e-2g-20gb", "tpu-1f3c9a2e-2g-20gb-4"]
)
def test_other_shapes_are_refused(name: str) -> None:
    with pytest.raises(BadDeviceName, match="expected gpu-"):
        decode(name)


def test_the_counter_set_is_named_after_the_gpu() -> None:
    assert counter_set_name("GPU-1F3C9A2E-0000-0000-0000-000000000000") == "gpu-1f3c9a2e"
    with pytest.raises(ValueError, match="does not start with"):
        short_uuid("MIG-1f3c9a2e")
