"""The geometry of a GPU model, from the table of profiles that ships with Tessera.

On a real node the driver says what a GPU allows, the agent publishes it and the scheduler reads it.
Simulations and plans have no node, so here the same rules turn a row of the table into the same `Geometry`:

- a placement covers memory slices and takes compute slices;
- a profile of which a GPU holds fewer than it has starts for (`+me`, by the driver's maxima) is exclusive;
- where a profile takes all media engines (`+me.all`), every other profile takes its share of them, so that
  only profiles without any (`-me`) fit beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.gpu.profiles import GPUModel, Profile, model
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of

_MEDIA_ENGINES = "media-engines"


def geometry_for(name: str, *, profiles: Sequence[str] | None = None) -> Geometry:
    """The geometry of a model of the shipped table, with these profiles (None: see `plain_profiles`).

    Raises UnknownModel or UnknownProfile with the nearest names.
    """
    return geometry_of_model(model(name), profiles=profiles)


def geometry_of_model(board: GPUModel, *, profiles: Sequence[str] | None = None) -> Geometry:
    """The geometry of a model, with these profiles (None: see `plain_profiles`). Raises UnknownProfile."""
    chosen = [board.profile(name) for name in (plain_profiles(board) if profiles is None else profiles)]
    engines = _media_engines(chosen)
    return geometry_of(
        model=board.name,
        memory_slices=board.memory_slices,
        compute_slices=board.compute_slices,
        placements=tuple(
            _placement(profile, start, counts_media=bool(engines))
            for profile in chosen
            for start in profile.starts
        ),
        limits=((_MEDIA_ENGINES, engines),) if engines else (),
    )


def plain_profiles(board: GPUModel) -> tuple[str, ...]:
    """The profiles without a suffix: for an 80 GB board the six 1g.10gb, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb
    and 7g.80gb that placement studies use.
    """
    return tuple(p.name for p in board.profiles if not p.name.partition("gb")[2])


def every_profile(board: GPUModel) -> tuple[str, ...]:
    """All profiles of a model."""
    return tuple(profile.name for profile in board.profiles)


def _placement(profile: Profile, start: int, *, counts_media: bool) -> LegalPlacement:
    # The table's maximum is the number of disjoint starts, but for profiles of which there is one per GPU.
    single = profile.max_count == 1 and len(profile.starts) > 1
    draws = ((_MEDIA_ENGINES, profile.decoders),) if counts_media and profile.decoders else ()
    return LegalPlacement(
        profile=profile.name,
        start=start,
        width=profile.memory_slices,
        compute=profile.compute_slices,
        exclusive=(profile.name,) if single else (),
        draws=draws,
    )


def _media_engines(profiles: Sequence[Profile]) -> int:
    """Media engines to share, or 0 where they cannot bind: only `+me.all` profiles use them up."""
    if not any(profile.all_media for profile in profiles):
        return 0
    return max(profile.decoders or 0 for profile in profiles)
