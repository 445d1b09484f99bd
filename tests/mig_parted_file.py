"""A file of mig-parted with every form that NVIDIA's default file has, made of our own profile table.

The forms are those of deployments/systemd/config-default.yaml in github.com/NVIDIA/mig-parted: everything
off, everything on, as many of one profile as fit for each profile, one configuration that differs by board,
and one with a mix for each board, with all PCI ids of the boards.
"""

from __future__ import annotations

from typing import Any

import yaml
from tessera.gpu.profiles import GPUModel, boards, models

UNKNOWN_BOARD = "0x232910DE"
"""An H20, which the profile table does not have and NVIDIA's file names beside boards that it has."""


def pci_filter(model: str) -> list[str]:
    """The device filter that means every board of the model."""
    return [f"0x{device:04X}10DE" for device in boards()[model].pci_device_ids]


def _entry(devices: dict[str, int], **more: Any) -> dict[str, Any]:
    return {**more, "devices": "all", "mig-enabled": True, "mig-devices": devices}


def _mix(model: GPUModel) -> dict[str, int]:
    one, two, *more = [profile.name for profile in model.profiles if profile.name.partition("gb")[2] == ""]
    three = [name for name in more if name.startswith("3g.")]
    return {one: 2, two: 1, **dict.fromkeys(three, 1)}


def configurations() -> dict[str, list[dict[str, Any]]]:
    """By name, as in the file."""
    most = {
        f"all-{profile.name.replace('+', '.')}": [_entry({profile.name: profile.max_count})]
        for model in models().values()
        for profile in model.profiles
    }
    mixed = [_entry(_mix(model), **{"device-filter": pci_filter(name)}) for name, model in models().items()]
    mixed[0]["device-filter"] = pci_filter("A30-24GB")[0]
    next(entry for entry in mixed if "0x234210DE" in entry["device-filter"])["device-filter"].append(
        UNKNOWN_BOARD
    )
    by_board = [
        _entry({"1g.10gb": count}, **{"device-filter": pci_filter(model)})
        for model, count in (("H100-80GB", 7), ("A100-40GB", 4))
    ]
    return {
        "all-disabled": [{"devices": "all", "mig-enabled": False}],
        "all-enabled": [_entry({})],
        **most,
        "all-1g.10gb": by_board,
        "all-balanced": mixed,
        "by-index": [
            {"devices": [0, 1], "mig-enabled": False, "mig-devices": {}},
            {"devices": [2], "mig-enabled": True, "mig-devices": {"1g.10gb": 2, "3g.40gb": 1}},
        ],
    }


def mig_parted_file() -> str:
    """The file."""
    return yaml.safe_dump({"version": "v1", "mig-configs": configurations()}, sort_keys=False)
