"""The one codec of device names: `gpu-<8 hex of the GPU's UUID>-<profile slug>-<start>`.

A device name must be a DNS label and must survive a GPU's index shifting, so it carries the start of the
UUID and a slug of the profile: `1g.10gb+me` becomes `1g-10gb-me`. `1g.24gb-me` (*no* media engines) would
become the same, so a trailing `-me` is written `-no-me`. A slug is read back by looking it up among the
GPU's profiles, never by splitting: slugs have no fixed number of parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tessera.gpu.profiles import models

_SHAPE = re.compile(r"^gpu-(?P<gpu>[0-9a-f]{8})-(?P<slug>[a-z0-9-]+)-(?P<start>\d+)$")


class BadDeviceName(ValueError):
    """A device name that this codec did not write."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"device name {name!r} {why}; expected gpu-<8 hex>-<profile slug>-<start>")


@dataclass(frozen=True, slots=True)
class DeviceName:
    """The parts of a device name. `gpu` is the first 8 hex digits of the GPU's UUID."""

    gpu: str
    profile: str
    start: int

    def __str__(self) -> str:
        return f"gpu-{self.gpu}-{slug(self.profile)}-{self.start}"


def short_uuid(gpu_uuid: str) -> str:
    """The first 8 hex digits of `GPU-1f3c9a2e-…`. Raises `ValueError` for anything else."""
    head = gpu_uuid.removeprefix("GPU-")[:8].lower()
    if not re.fullmatch(r"[0-9a-f]{8}", head):
        raise ValueError(f"GPU UUID {gpu_uuid!r} does not start with GPU- and 8 hex digits")
    return head


def counter_set_name(gpu_uuid: str) -> str:
    """The name of the GPU's counter set, `gpu-1f3c9a2e`."""
    return f"gpu-{short_uuid(gpu_uuid)}"


def slug(profile: str) -> str:
    """The profile's name as part of a DNS label; injective over the names NVIDIA uses."""
    if "+" not in profile and profile.endswith("-me"):
        profile = profile.removesuffix("-me") + "-no-me"
    return profile.replace("+", "-").replace(".", "-").lower()


def encode(*, gpu_uuid: str, profile: str, start: int) -> str:
    """The device name of `profile` at `start` on that GPU."""
    return str(DeviceName(gpu=short_uuid(gpu_uuid), profile=profile, start=start))


def decode(name: str, profiles: Iterable[str] | None = None) -> DeviceName:
    """Read a device name back, by the given profile names (default: every name in the shipped table).

    Raises `BadDeviceName` when the shape is wrong or no profile has that slug.
    """
    match = _SHAPE.match(name)
    if match is None:
        raise BadDeviceName(name, "has another shape")
    known = profiles if profiles is not None else (p.name for m in models().values() for p in m.profiles)
    for profile in known:
        if slug(profile) == match["slug"]:
            return DeviceName(gpu=match["gpu"], profile=profile, start=int(match["start"]))
    raise BadDeviceName(name, f"has the unknown profile slug {match['slug']!r}")
