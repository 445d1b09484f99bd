"""The geometry of a GPU model, from the table of profiles that ships with Tessera.

On a real node the driver says what a GPU allows, the agent publishes it and the scheduler reads it. Offline
plans and simulations have no node, so here the same rules turn a row of the table into the same `Geometry`:

- a placement covers memory slices and takes compute slices;
- the media extensions exist once per GPU, so one instance of all `+me` profiles together fits;
- where a profile takes all media engines (`+me.all`), every other profile takes its share of them, so that
  only profiles without any (`-me`) fit beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tessera.api import names
from tessera.gpu.profiles import GPUModel, Profile, model
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of


def geometry_for(name: str, *, profiles: Sequence[str] | None = None) -> Geometry:
    """The geometry of a model of the shipped table, with these profiles (None: see `plain_profiles`).

    Raises UnknownModel or UnknownProfile with the nearest names.
    """
    return geometry_of_model(model(name), profiles=profiles)


def geometry_of_model(board: GPUModel, *, profiles: Sequence[str] | None = None) -> Geometry:
    """The geometry of a model, with these profiles (None: see `plain_profiles`). Raises UnknownProfile."""
    chosen = plain_profiles(board) if profiles is None else tuple(profiles)
    return _geometry(board, chosen)


def plain_profiles(board: GPUModel) -> tuple[str, ...]:
    """The profiles without a suffix: for an 80 GB board the six 1g.10gb, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb
    and 7g.80gb that placement studies use.
    """
    return tuple(p.name for p in board.profiles if not p.name.partition("gb")[2])


def every_profile(board: GPUModel) -> tuple[str, ...]:
    """All profiles of a model."""
    return tuple(profile.name for profile in board.profiles)


@cache
def _geometry(board: GPUModel, profiles: tuple[str, ...]) -> Geometry:
    chosen = [board.profile(name) for name in profiles]
    # Without a profile that takes them all, the media engines cannot run out before the slices do.
    engines = board.media_engines if any(profile.all_media for profile in chosen) else 0
    return geometry_of(
        model=board.name,
        memory_slices=board.memory_slices,
        compute_slices=board.compute_slices,
        placements=tuple(
            LegalPlacement(
                profile=profile.name,
                start=start,
                width=profile.memory_slices,
                compute=profile.compute_slices,
                exclusive=(names.COUNTER_MEDIA_EXTENSIONS,) if profile.media_extensions else (),
                draws=_draws(profile) if engines else (),
            )
            for profile in chosen
            for start in profile.starts
        ),
        limits=((names.COUNTER_MEDIA_ENGINES, engines),) if engines else (),
    )


def _draws(profile: Profile) -> tuple[tuple[str, int], ...]:
    return ((names.COUNTER_MEDIA_ENGINES, profile.decoders),) if profile.decoders else ()
