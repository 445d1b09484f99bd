"""What `tessera gpu` shows: GPUs as mosaics of `tessera top`'s tiles, differences as lines, both as data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from tessera.cli.frame import GPU as Row
from tessera.cli.frame import Tile
from tessera.cli.mosaic import BAD, FAINT, FREE, GOOD, INK, PALETTE, WAITING, WARM, gpu_rows, legend
from tessera.relayout.plan import Place, Standing
from tessera.relayout.reading import Machine, ReadGPU
from tessera.relayout.transaction import GPUPlan

WIDTH = 80
_KEPT, _NEW, _GONE, _BUSY = "kept", "new", "destroyed", "in use"
_COLOURS = {_KEPT: "#aab2bf", _NEW: PALETTE[0], _GONE: PALETTE[2], _BUSY: PALETTE[1]}
_LIST_LEGEND = (
    ("▎  ", f"{INK} on {_COLOURS[_BUSY]}", "in use"),
    ("▎  ", WARM, "idle"),
    ("░░░", FREE, "free"),
)


def console() -> Console:
    """Standard output, not wider than the pictures are made for."""
    out = Console(highlight=False)
    out.width = min(out.width, WIDTH)
    return out


def machine_picture(machine: Machine, *, width: int = WIDTH) -> RenderableType:
    """Every GPU with its instances."""
    inventory = machine.inventory
    simulated = " (simulated)" if machine.simulated else ""
    title = Text().append(" GPUs of this machine", "bold")
    title.append(f"  driver {inventory.driver_version}{simulated}", FAINT)
    parts: list[RenderableType] = [title]
    for read in machine.gpus:
        parts += [Text(), _heading(read)]
        if read.gpu.fault:
            parts.append(Text(f" GPU {read.gpu.index} cannot be used: {read.gpu.fault}", BAD))
            continue
        parts += gpu_rows(_row(read, [_listed(standing) for standing in read.standing]), _COLOURS, width)
        parts += [_user(standing) for standing in read.standing if standing.pids]
        if read.processes_hidden:
            parts.append(Text("       Processes are hidden from this user; root sees them.", WAITING))
    if not machine.gpus:
        parts.append(Text(" The driver lists no GPU.", BAD))
    elif any(read.standing or read.gpu.mig_current for read in machine.gpus):
        parts += [Text(), legend(_LIST_LEGEND)]
    return Group(*parts)


def _user(standing: Standing) -> Text:
    processes = (
        f"{'process' if len(standing.pids) == 1 else 'processes'} {', '.join(map(str, standing.pids))}"
    )
    return Text(f"       {_BUSY}: {standing.profile} at {standing.start} by {processes}", WAITING)


def _heading(read: ReadGPU) -> Text:
    heading = Text(no_wrap=True, overflow="ellipsis").append(f" {read.model_name}", "bold")
    return heading.append(f"  {read.gpu.uuid}", FAINT)


def _listed(standing: Standing) -> Tile:
    if standing.pids:
        return Tile(standing.start, standing.size, standing.profile, "InUse", holder=_BUSY, job=_BUSY)
    words = {0: "half made", 1: "idle"}.get(standing.compute_instances, f"{standing.compute_instances} CIs")
    return Tile(standing.start, standing.size, standing.profile, "Warm", holder=words)


def _row(read: ReadGPU, tiles: Sequence[Tile]) -> Row:
    gpu, geometry = read.gpu, read.geometry
    covered = sum(tile.width for tile in tiles)
    largest = None
    if geometry is not None and gpu.mig_current:
        largest = _largest_free(read)
    slices = geometry.memory_slices if geometry is not None else 0
    return Row(
        index=gpu.index,
        uuid=gpu.uuid,
        model=read.model_name,
        mig_mode=mig_mode(read),
        healthy=not gpu.fault,
        message=gpu.fault,
        memory_slices=slices,
        free_slices=slices - covered,
        largest_free_profile=largest,
        tiles=tuple(tiles),
    )


def mig_mode(read: ReadGPU) -> str:
    """In the words of `GPUNode.status`; `Unsupported` where the board has no MIG."""
    if read.gpu.model is None:
        return "" if read.gpu.fault else "Unsupported"
    current, pending = read.gpu.mig_current, read.gpu.mig_pending
    if current == pending:
        return "Enabled" if current else "Disabled"
    return "DisablePending" if current else "EnablePending"


def _largest_free(read: ReadGPU) -> str | None:
    geometry = read.geometry
    assert geometry is not None
    taken = [geometry.index_of(standing.profile, standing.start) for standing in read.standing]
    if None in taken:  # an instance of a profile that the driver does not list: what fits is not known
        return None
    fitting = geometry.occupancy(geometry.key_of([index for index in taken if index is not None])).fitting
    room = [geometry.placements[index] for index in fitting]
    return max(room, key=lambda p: (p.compute, p.width, -len(p.profile))).profile if room else None


def plan_picture(plan: GPUPlan, read: ReadGPU, *, width: int = WIDTH) -> RenderableType:
    """One GPU's change: the mosaic now and then, and a line for each instance."""
    parts: list[RenderableType] = [Text(), _title(plan)]
    if plan.mig_now:
        parts += gpu_rows(_row(read, _tiles_now(plan)), _COLOURS, width, label="now", room=False)
    if plan.mig_then and not plan.is_empty:
        parts += gpu_rows(_row(read, _tiles_then(plan)), _COLOURS, width, label="then", room=False)
    parts += [_line(*line, width=width) for line in _lines(plan)]
    return Group(*parts)


def _title(plan: GPUPlan) -> Text:
    title = Text(no_wrap=True, overflow="ellipsis").append(f" GPU {plan.index}  {plan.model.name}", "bold")
    return title.append("  as asked" if plan.is_empty else f"  {plan.uuid}", GOOD if plan.is_empty else FAINT)


def _tiles_now(plan: GPUPlan) -> list[Tile]:
    words = [(s, _KEPT, "kept") for s in plan.change.kept]
    words += [(s, _NEW, "completed") for s in plan.change.completed]
    words += [(s, _GONE, "blocked" if s.obstacle else "goes") for s in plan.change.destroyed]
    return [Tile(s.start, s.size, s.profile, "InUse", holder=said, job=job) for s, job, said in words]


def _tiles_then(plan: GPUPlan) -> list[Tile]:
    made = [
        Tile(
            place.start, plan.model.profile(place.profile).memory_slices, place.profile, "InUse", "new", _NEW
        )
        for place in plan.change.created
    ]
    stays = [(s, _KEPT, "kept") for s in plan.change.kept]
    stays += [(s, _NEW, "completed") for s in plan.change.completed]
    return made + [Tile(s.start, s.size, s.profile, "InUse", said, job) for s, job, said in stays]


def _lines(plan: GPUPlan) -> list[tuple[str, str, str, str]]:
    """(sign, word, what, style) of each line of the difference."""
    change = plan.change
    lines: list[tuple[str, str, str, str]] = []
    if plan.mig_now != plan.mig_then:
        words = "off -> on" if plan.mig_then else "on -> off"
        held = f": held by process {', '.join(map(str, plan.pids))}" if plan.pids else ""
        lines.append(
            ("!" if held else "~", "blocked" if held else "switched", f"MIG mode {words}{held}", WAITING)
        )
    if plan.mode_pending:
        lines.append(("!", "blocked", "a switch of MIG mode waits for a reset of the GPU", BAD))
    lines += [("=", "kept", _at(s.place, s), FAINT) for s in change.kept]
    lines += [("~", "completed", _at(s.place, s), WAITING) for s in change.completed]
    lines += [
        ("-", "destroyed", _at(s.place, s), _COLOURS[_GONE]) for s in change.destroyed if not s.obstacle
    ]
    lines += [("!", "blocked", f"{_at(s.place, s)}: {s.obstacle}", BAD) for s in change.blocked]
    lines += [("+", "created", _at(place), _COLOURS[_NEW]) for place in change.created]
    return lines


def _at(place: Place, standing: Standing | None = None) -> str:
    inside = f" (process {', '.join(map(str, standing.pids))})" if standing and standing.pids else ""
    # A blocked instance names its processes as the reason already.
    return f"{place.profile} at {place.start}" + ("" if standing and standing.obstacle and inside else inside)


def _line(sign: str, word: str, what: str, style: str, *, width: int) -> RenderableType:
    line = Text(no_wrap=len(what) + 20 < width)
    return line.append(f"       {sign} {word:<10}", style).append(what)


def summary(plans: Iterable[GPUPlan]) -> str:
    """The change in one line: `2 created, 1 kept, 1 destroyed`."""
    plans = list(plans)
    counts = {
        "created": sum(len(plan.change.created) for plan in plans),
        "completed": sum(len(plan.change.completed) for plan in plans),
        "kept": sum(len(plan.change.kept) for plan in plans),
        "destroyed": sum(len(plan.change.destroyed) for plan in plans),
        "blocked": sum(len(plan.obstacles()) for plan in plans),
        "MIG mode switched": sum(plan.mig_now != plan.mig_then for plan in plans),
    }
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number) or "no instance"


def machine_object(machine: Machine) -> dict[str, Any]:
    """`tessera gpu list --json`."""
    return {
        "driver": machine.inventory.driver_version,
        "nvml": machine.inventory.nvml_version,
        "simulated": machine.simulated,
        "gpus": [_gpu_object(read) for read in machine.gpus],
    }


def _gpu_object(read: ReadGPU) -> dict[str, Any]:
    row = _row(read, [_listed(standing) for standing in read.standing])
    return {
        "index": row.index,
        "uuid": row.uuid,
        "model": row.model,
        "product": read.gpu.product,
        "mig_mode": row.mig_mode,
        "memory_slices": row.memory_slices,
        "free_memory_slices": row.free_slices,
        "largest_free_profile": row.largest_free_profile,
        "fault": read.gpu.fault or None,
        "processes": None if read.processes_hidden else list(read.pids),
        "instances": [_standing_object(standing) for standing in read.standing],
    }


def _standing_object(standing: Standing) -> dict[str, Any]:
    return {
        "profile": standing.profile,
        "start": standing.start,
        "size": standing.size,
        "uuids": list(standing.uuids),
        "processes": list(standing.pids),
    }


def plan_object(plan: GPUPlan) -> dict[str, Any]:
    """One GPU of `layout`, `apply` and `check` with `--json`."""
    change = plan.change
    return {
        "index": plan.index,
        "uuid": plan.uuid,
        "model": plan.model.name,
        "as_asked": plan.is_empty,
        "mig": {"now": plan.mig_now, "then": plan.mig_then},
        "kept": [_standing_object(standing) for standing in change.kept],
        "completed": [_standing_object(standing) for standing in change.completed],
        "destroyed": [_standing_object(standing) for standing in change.destroyed],
        "created": [{"profile": place.profile, "start": place.start} for place in change.created],
        "blocked": list(plan.obstacles()),
    }
