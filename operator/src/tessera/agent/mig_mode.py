"""MIG mode: switched where the GPUNode's spec wants it otherwise, and why it waits where it does.

A GPU is switched off only when nothing is left on it: `layouts` clears it first, because MIG mode off is a
layout without slices. It is switched on only when no claim holds it as a whole; nobody new comes to it until
then. A GPU is never reset. Hopper and newer switch at once unless a program holds the GPU, so they are asked
again at each look. On Ampere the mode then waits for a reset that a person has to make; asking again would
not help.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from tessera.agent.checkpoint import Ledger
from tessera.agent.devices import Offer
from tessera.agent.health import how_to_reset
from tessera.agent.layout_plan import held_on
from tessera.agent.layouts import Progress
from tessera.gpu.driver import GPU, Driver, Inventory
from tessera.gpu.faults import IN_USE, NOT_SUPPORTED, RESET_REQUIRED, NVMLFault, symbol

log = logging.getLogger(__name__)

_VGPU = 2
_WORD = {True: "enabling", False: "disabling"}


def wishes(gpu_node: Mapping[str, Any], gpus: Iterable[GPU], *, enable: bool) -> dict[str, bool]:
    """Whether MIG mode is to be on, by GPU UUID; a GPU whose mode is left alone is missing.

    `enable`: on wherever the spec does not want it off.
    """
    modes = {
        entry["uuid"]: entry.get("migMode", "Enabled")
        for entry in (gpu_node.get("spec") or {}).get("gpus") or []
    }
    found = {}
    for gpu in gpus:
        mode = modes.get(gpu.uuid)
        if mode == "Disabled":
            found[gpu.uuid] = False
        elif mode == "Enabled" or enable:
            found[gpu.uuid] = True
    return found


async def switch(driver: Driver, gpus: Iterable[GPU], wished: Mapping[str, bool]) -> dict[str, str]:
    """Change the modes of these GPUs; returns, of each, what the driver has against it and the remedy, or
    nothing.
    """
    return {gpu.uuid: await _switch(driver, gpu, enable=wished[gpu.uuid]) for gpu in gpus}


def due(gpus: Iterable[GPU], wished: Mapping[str, bool], ledger: Ledger) -> list[GPU]:
    """The GPUs whose mode is to be changed and can be changed now: nobody holds anything of them."""
    return [gpu for gpu in gpus if gpu.uuid in wished and _is_due(gpu, wished[gpu.uuid], ledger)]


def _is_due(gpu: GPU, wish: bool, ledger: Ledger) -> bool:
    if gpu.model is None or gpu.fault or (gpu.instances and not wish) or ledger.holder(gpu.uuid):
        return False
    return gpu.mig_pending != wish or (gpu.mig_current != wish and gpu.architecture != "ampere")


async def _switch(driver: Driver, gpu: GPU, *, enable: bool) -> str:
    doing = f"GPU {gpu.index}: {_WORD[enable]} MIG"
    try:
        status = await driver.set_mig_mode(gpu.uuid, enable)
    except NVMLFault as fault:  # one GPU's trouble; the others are served
        if fault.code == NOT_SUPPORTED and gpu.virtualization == _VGPU:
            return f"{doing} failed: this is a vGPU, whose MIG mode the host decides; change it there"
        return f"{doing} failed: {fault}"
    if status == IN_USE:
        return (
            f"{doing} answered {symbol(status)}; stop the programs that hold the GPU (fuser -v /dev/nvidia*)"
        )
    if status == RESET_REQUIRED:
        return f"{doing} waits for a GPU reset; stop its processes and {how_to_reset(gpu)}"
    if status:
        return f"{doing} answered {symbol(status)}; stop its processes and {how_to_reset(gpu)}"
    log.info("MIG mode of GPU %s is switched %s", gpu.uuid, "on" if enable else "off")
    return ""


def waiting(
    inventory: Inventory | None, wished: Mapping[str, bool], layouts: Mapping[str, Progress], ledger: Ledger
) -> dict[str, str]:
    """Who is in the way on each GPU whose mode is to be switched and that is not free, by GPU UUID."""
    found = {}
    for gpu in inventory.gpus if inventory else ():
        wish, holder = wished.get(gpu.uuid), ledger.holder(gpu.uuid)
        where = f"GPU {gpu.index}: MIG mode is to be switched"
        if wish and holder is not None:
            found[gpu.uuid] = (
                f"{where} on; claim {holder} holds the GPU as a whole; end its pod, or wait until it does"
            )
        elif wish is False and gpu.uuid in layouts and layouts[gpu.uuid].message:
            found[gpu.uuid] = f"{where} off; {layouts[gpu.uuid].message}"
    return found


def offers_new(gpu: GPU, *, wish: bool | None, has_layout: bool) -> bool:
    """Whether new work may come to the GPU in the mode that it has: not while it is to get the other one, and
    not to a GPU as a whole that has a layout of slices.
    """
    if gpu.mig_current:
        return wish is not False
    return wish is False or (wish is None and not gpu.mig_pending and not has_layout)


def closed_offers(gpus: Iterable[GPU], wished: Mapping[str, bool], ledger: Ledger) -> dict[str, Offer]:
    """Of GPUs that are whole and are to be cut on demand, by UUID: nothing but what a claim still holds."""
    found = {}
    for gpu in gpus:
        if not (gpu.mig_current or offers_new(gpu, wish=wished.get(gpu.uuid), has_layout=False)):
            held = held_on(gpu, ledger)
            found[gpu.uuid] = Offer(devices=held, leaving=held)
    return found


def describe(gpu: GPU, *, wish: bool | None, note: str) -> str:
    """Why MIG mode is off, or not as it is wished, and what to do; empty when all is well.

    `note`: what this look has already found.
    """
    where = f"GPU {gpu.index} ({gpu.uuid})"
    if note:
        return note
    if gpu.mig_current != gpu.mig_pending:
        word = "enabled" if gpu.mig_pending else "disabled"
        reset = how_to_reset(gpu)
        return f"{where}: MIG mode is {word} but waits for a GPU reset; stop its processes and {reset}"
    if gpu.mig_current or wish is False:
        return ""
    return (
        f"{where}: MIG mode is off, so it is not cut; for slices let a MIGPartition manage it, start the "
        f"agent with --enable-mig, or run nvidia-smi -i {gpu.index} -mig 1"
    )
