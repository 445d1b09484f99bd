"""MIG geometry: which slices each GPU model can be cut into, and where.

A GPU is a row of memory slices (8 on A100/H100/B200, 4 on A30, 12 on RTX PRO 6000). A *profile* (2g.20gb)
is a shape with a width in memory slices and a short list of legal starts; a *placement* is a profile at
one start. Two placements fit together when their slices do not overlap, and, for profiles with media
extensions, when the engines suffice. The table of public boards ships as `mig_profiles.csv` (sources:
`PROVENANCE.md`); a real driver's answer builds the same types and takes precedence, so a board that this
project has never seen works too.

Two numbers are easily confused: `Profile.enum` is what NVML's profile-info call takes; `Profile.id` is
what placement and create take and what `nvidia-smi mig -lgip` prints. The same id means different profiles
on different boards.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MIB = 1024 * 1024


class UnknownModel(LookupError):
    """No row of the shipped table has this model's name, or several begin so (`begun`)."""

    def __init__(self, name: str, known: Iterable[str], *, begun: Sequence[str] = ()) -> None:
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
        hint = f"it may be {', '.join(begun)}" if begun else f"nearest: {', '.join(nearest)}"
        super().__init__(f"GPU model {name!r} is not in the profile table; {hint}")


class UnknownProfile(LookupError):
    """This GPU model has no profile of that name or id."""

    def __init__(self, wanted: str | int, model: str, known: Iterable[str]) -> None:
        known = list(known)
        nearest = difflib.get_close_matches(str(wanted), known, n=3, cutoff=0.3) or known
        super().__init__(f"profile {wanted!r} does not exist on {model}; nearest: {', '.join(nearest)}")


@dataclass(frozen=True, slots=True)
class Profile:
    """One MIG profile of one board. `None` means that no source states the number."""

    name: str
    enum: int
    id: int
    compute_slices: int
    memory_slices: int
    starts: tuple[int, ...]
    max_count: int
    multiprocessors: int | None = None
    memory_mib: int | None = None
    copy_engines: int | None = None
    decoders: int | None = None
    encoders: int | None = None
    jpeg_engines: int | None = None
    optical_flow_engines: int | None = None

    @property
    def media_extensions(self) -> bool:
        """Whether this is a `+me` or `+me.all` profile; one such instance fits on a GPU."""
        return "+me" in self.name

    @property
    def all_media(self) -> bool:
        """Whether this profile takes every media engine of the GPU (`+me.all`)."""
        return self.name.endswith("+me.all")

    @property
    def no_media(self) -> bool:
        """Whether this profile has no media engine at all (`-me`)."""
        return self.name.endswith("-me")

    @property
    def graphics(self) -> bool:
        """Whether programs on this profile can use graphics APIs (`+gfx`)."""
        return self.name.endswith("+gfx")

    def placements(self) -> tuple[Placement, ...]:
        """Every legal placement, by start."""
        return tuple(Placement(self, start) for start in self.starts)


@dataclass(frozen=True, slots=True)
class Placement:
    """A profile at a start; `size` slices wide. Legal when `start` is one of the profile's starts."""

    profile: Profile
    start: int

    @property
    def size(self) -> int:
        """Width in memory slices."""
        return self.profile.memory_slices

    @property
    def mask(self) -> int:
        """Bit k is set when memory slice k belongs to the placement."""
        return ((1 << self.size) - 1) << self.start

    def overlaps(self, other: Placement) -> bool:
        """Whether the two share a memory slice."""
        return bool(self.mask & other.mask)


@dataclass(frozen=True, slots=True)
class GPUModel:
    """A board's geometry: its slices and every profile it can be cut into."""

    name: str
    memory_slices: int
    compute_slices: int
    profiles: tuple[Profile, ...]

    def profile(self, name: str) -> Profile:
        """The profile of that name. Raises `UnknownProfile` with the nearest names."""
        for profile in self.profiles:
            if profile.name == name:
                return profile
        raise UnknownProfile(name, self.name, (p.name for p in self.profiles))

    def profile_by_id(self, profile_id: int) -> Profile:
        """The profile with that NVML profile id. Raises `UnknownProfile`."""
        for profile in self.profiles:
            if profile.id == profile_id:
                return profile
        raise UnknownProfile(profile_id, self.name, (f"{p.name} ({p.id})" for p in self.profiles))

    def profile_name(self, profile_id: int) -> str:
        """What to call an instance of that profile id: `id-<n>` where this board's table has no such id."""
        return next((p.name for p in self.profiles if p.id == profile_id), f"id-{profile_id}")

    @property
    def media_engines(self) -> int:
        """Media engines that profiles compete for, or 0 where they cannot run out:

        only boards with `+me.all` profiles can.
        """
        if not any(profile.all_media for profile in self.profiles):
            return 0
        return max(profile.decoders or 0 for profile in self.profiles)

    def placements(self) -> tuple[Placement, ...]:
        """Every legal placement, in table order and then by start."""
        return tuple(placement for profile in self.profiles for placement in profile.placements())

    @staticmethod
    def from_profiles(name: str, profiles: Iterable[Profile]) -> GPUModel:
        """Derive the slice counts:

        the widest profile spans the GPU's memory, the largest its compute slices.
        """
        table = tuple(profiles)
        return GPUModel(
            name=name,
            memory_slices=max((p.memory_slices + max(p.starts) for p in table), default=0),
            compute_slices=max((p.compute_slices for p in table), default=0),
            profiles=table,
        )


@dataclass(frozen=True, slots=True)
class Board:
    """What a board is called and how it is recognised."""

    model: str
    product: str
    architecture: str
    compute_capability: tuple[int, int]
    memory_mib: int
    pci_device_ids: tuple[int, ...]
    power_limit_w: int


def _rows(file_name: str) -> list[dict[str, str]]:
    text = files("tessera.gpu").joinpath(file_name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _count(cell: str) -> int | None:
    return int(cell) if cell else None


def _profile(row: dict[str, str]) -> Profile:
    return Profile(
        name=row["profile"],
        enum=int(row["enum"]),
        id=int(row["id"]),
        compute_slices=int(row["g"]),
        memory_slices=int(row["mem_slices"]),
        starts=tuple(int(start) for start in row["starts"].split("|")),
        max_count=int(row["max"]),
        multiprocessors=_count(row["sm"]),
        memory_mib=int(float(row["mem_gib"]) * 1024) if row["mem_gib"] else None,
        copy_engines=_count(row["ce"]),
        decoders=_count(row["nvdec"]),
        encoders=_count(row["nvenc"]),
        jpeg_engines=_count(row["jpeg"]),
        optical_flow_engines=_count(row["ofa"]),
    )


@cache
def models() -> dict[str, GPUModel]:
    """The shipped table, by model name (`H100-80GB`)."""
    by_model: dict[str, list[Profile]] = {}
    for row in _rows("mig_profiles.csv"):
        by_model.setdefault(row["gpu"], []).append(_profile(row))
    return {name: GPUModel.from_profiles(name, profiles) for name, profiles in by_model.items()}


@cache
def boards() -> dict[str, Board]:
    """Names and PCI ids of the shipped boards, by model name."""
    table: dict[str, Board] = {}
    for row in _rows("boards.csv"):
        major, minor = row["compute_capability"].split(".")
        table[row["gpu"]] = Board(
            model=row["gpu"],
            product=row["product"],
            architecture=row["architecture"],
            compute_capability=(int(major), int(minor)),
            memory_mib=int(row["memory_mib"]),
            pci_device_ids=tuple(int(device, 16) for device in row["pci_device_ids"].split("|")),
            power_limit_w=int(row["power_limit_w"]),
        )
    return table


def model(name: str) -> GPUModel:
    """The shipped model of that name. Raises `UnknownModel` with the nearest names."""
    try:
        return models()[name]
    except KeyError:
        raise UnknownModel(name, models()) from None


def model_meant(text: str) -> GPUModel:
    """The shipped model that a user names, in any case; `A30` stands for the only one that begins so, up to a
    dash. Raises `UnknownModel`: with the ones that begin so, or else with the nearest names.
    """
    by_lower_case = {name.lower(): name for name in models()}
    wanted = text.lower()
    if wanted in by_lower_case:
        return model(by_lower_case[wanted])
    begun = [name for lower, name in by_lower_case.items() if lower.startswith(f"{wanted}-")]
    if len(begun) == 1:
        return model(begun[0])
    raise UnknownModel(text, models(), begun=begun)


def board(name: str) -> Board:
    """The shipped board of that model name. Raises `UnknownModel` with the nearest names."""
    try:
        return boards()[name]
    except KeyError:
        raise UnknownModel(name, boards()) from None


def model_name_by_pci(pci_device_id: int, product: str) -> str:
    """The model name of a real GPU: by PCI device id, else the product name itself (an unknown board)."""
    for candidate in boards().values():
        if pci_device_id in candidate.pci_device_ids:
            return candidate.model
    return product
