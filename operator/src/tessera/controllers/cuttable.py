"""What a GPU can be cut into, as its `GPUNode` says it: from the report to the geometry that plans need."""

from __future__ import annotations

from tessera.api import names
from tessera.api.gpu_node import CuttableModel
from tessera.placement.geometry import Geometry, LegalPlacement, geometry_of


def geometry_from(model: CuttableModel) -> Geometry:
    """The geometry of one model; equal reports give the same object. Raises IllegalGeometry."""
    return geometry_of(
        model=model.model,
        memory_slices=model.memory_slices,
        compute_slices=model.compute_slices,
        placements=tuple(
            LegalPlacement(
                profile=profile.profile,
                start=start,
                width=profile.memory_slices,
                compute=profile.compute_slices,
                exclusive=(names.COUNTER_MEDIA_EXTENSIONS,) if profile.media_extensions else (),
                draws=((names.COUNTER_MEDIA_ENGINES, profile.media_engines),)
                if profile.media_engines
                else (),
            )
            for profile in model.profiles
            for start in profile.starts
        ),
        limits=((names.COUNTER_MEDIA_ENGINES, model.media_engines),) if model.media_engines else (),
    )
