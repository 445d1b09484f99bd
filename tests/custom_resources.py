"""The CustomResourceDefinitions of the repository in a control plane of a test or a bench."""

from __future__ import annotations

from pathlib import Path

from tessera.local.control_plane import ControlPlane

_DIRECTORY = Path(__file__).resolve().parents[1] / "crds"


def install_crds(plane: ControlPlane) -> None:
    """Apply them, and wait until they are served."""
    plane.kubectl("apply", "--server-side", "-f", str(_DIRECTORY))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(_DIRECTORY))
