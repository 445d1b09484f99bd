"""`tessera top`'s picture: each GPU a row of tiles, one column for one memory slice, and the jobs below.

A job has one colour: its tiles and its progress bar wear it, so the eye joins them. What has no holder has
no colour: warm is amber on grey, free is a faint hatch. Every tile begins with a bar, so the picture reads
without colours too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from tessera.cli.frame import GPU, Frame, Job, Node, Tile

# Glass tesserae of Ravenna, all light enough for dark ink.
PALETTE = ("#4fb3a5", "#e9b44c", "#e07a5f", "#6ea8dc", "#b58fd6", "#8fbf6b", "#dd7fa7", "#c9a27e")
INK = "#12161c"
WARM = "#e9b44c on #30343d"
ALLOCATED = "#262b34"
FOREIGN = "#d7dae0 on #5c616b"
FREE = "#5b616d"
GOOD, BAD, WAITING, FAINT = "#7fbf7b", "#e5695e", "#e9b44c", "#8b919c"

LABEL_WIDTH = 7
BAR_WIDTH = 18


def render(frame: Frame, *, width: int = 80) -> RenderableType:
    """The whole picture for a terminal of `width` columns (at least 60 are used)."""
    width = max(60, width)
    colours = {job.key: PALETTE[number % len(PALETTE)] for number, job in enumerate(frame.jobs)}
    parts: list[RenderableType] = [_title(frame, width)]
    for node in frame.nodes:
        parts += [Text(), *_node(node, colours, width)]
    if not frame.nodes:
        parts.append(
            _note("No GPUNode: no agent runs. Label GPU nodes and install the chart, or run `make demo`.")
        )
    else:
        parts += [Text(), legend(_LEGEND)]
    parts += [Text(), _heading("TRAINING JOBS", width)]
    for job in frame.jobs:
        parts += _job(job, colours[job.key], width)
    if not frame.jobs:
        parts.append(_note("None. Try: kubectl apply -f examples/quickstart/"))
    if frame.waiting:
        parts += [Text(), _heading("OTHER CLAIMS THAT WAIT", width)]
        for claim in frame.waiting:
            line = Text("  ", overflow="ellipsis", no_wrap=True)
            parts.append(line.append(f"{claim.namespace}/{claim.name}", "bold"))
            parts.append(_reason_line(claim.message or "The scheduler has not decided yet."))
    return Group(*parts)


def _title(frame: Frame, width: int) -> Text:
    gpus = [gpu for node in frame.nodes for gpu in node.gpus]
    total = sum(gpu.memory_slices for gpu in gpus)
    free = sum(gpu.free_slices for gpu in gpus)
    left = Text().append(" Tessera", "bold")
    hardware = f"{_count(len(frame.nodes), 'node')} · {_count(len(gpus), 'GPU')}"
    right = Text(f"{hardware} · {total - free} of {total} slices in use ", FAINT)
    return _spread(left, right, width)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _spread(left: Text, right: Text, width: int) -> Text:
    room = width - right.cell_len - 1
    if left.cell_len > room:
        left.truncate(max(1, room), overflow="ellipsis")
    return left.append(" " * max(1, width - left.cell_len - right.cell_len)).append_text(right)


def _heading(words: str, width: int) -> Text:
    return Text().append(f" {words} ", f"bold {FAINT}").append("─" * (width - len(words) - 3), "#4a505b")


def _note(words: str) -> RenderableType:
    return Padding(Text(words, FAINT), (0, 2))


def _node(node: Node, colours: Mapping[str, str], width: int) -> list[RenderableType]:
    boards = " + ".join(dict.fromkeys(gpu.model for gpu in node.gpus))
    left = Text().append(f" {node.name}", "bold").append(f"  {boards}", FAINT)
    if node.driver:
        left.append(f"  driver {node.driver}{' (simulated)' if node.simulated else ''}", FAINT)
    right = Text("● Ready ", GOOD) if node.ready else Text("● Not ready ", BAD)
    parts: list[RenderableType] = [_spread(left, right, width)]
    if node.problem:
        parts.append(_reason_line(node.problem, BAD))
    for gpu in node.gpus:
        parts += gpu_rows(gpu, colours, width)
    return parts


def gpu_rows(
    gpu: GPU, colours: Mapping[str, str], width: int, *, label: str = "", room: bool = True
) -> list[RenderableType]:
    """One GPU: two lines of tiles behind a label (default: its index), and, with `room`, what is left."""
    if not gpu.memory_slices:
        return [_note(f"GPU {gpu.index}: no MIG slices ({gpu.mig_mode or 'MIG mode unknown'})")]
    pitch = (width - LABEL_WIDTH - 1) // gpu.memory_slices
    upper = Text(no_wrap=True)
    upper.append(
        f" {label or f'GPU {gpu.index}'}".ljust(LABEL_WIDTH), "bold" if gpu.healthy else f"bold {BAD}"
    )
    lower = Text(" " * LABEL_WIDTH, no_wrap=True)
    tiles = {tile.start: tile for tile in gpu.tiles}
    position = 0
    while position < gpu.memory_slices:
        tile = tiles.get(position)
        span = tile.width if tile is not None else 1
        columns = pitch * span - 1
        first, second = _cells(tile, columns, colours)
        upper.append_text(first).append(" ")
        lower.append_text(second).append(" ")
        position += span
    return [upper, lower, _room(gpu)] if room else [upper, lower]


def _room(gpu: GPU) -> Text:
    if not gpu.healthy or gpu.mig_mode not in ("", "Enabled", "Disabled"):
        words = gpu.message or f"MIG mode {gpu.mig_mode}" if gpu.healthy else gpu.message or "unhealthy"
        return Text(" " * LABEL_WIDTH + words, BAD, no_wrap=True, overflow="ellipsis")
    if gpu.free_slices == 0:
        words = "full"
    elif gpu.mig_mode == "Disabled":
        words = "not cut: MIG mode is off"
    else:
        words = f"{gpu.free_slices} of {gpu.memory_slices} slices free"
        if gpu.largest_free_profile is not None:
            words += f", largest that fits: {gpu.largest_free_profile}"
        elif gpu.tiles:
            words += ", no profile fits"
    return Text(" " * LABEL_WIDTH + words, FAINT, no_wrap=True, overflow="ellipsis")


def _cells(tile: Tile | None, columns: int, colours: Mapping[str, str]) -> tuple[Text, Text]:
    """Both lines of a tile, or of one free slice, exactly `columns` wide."""
    if tile is None:
        return Text("░" * columns, FREE), Text("░" * columns, FREE)
    colour = colours.get(tile.job, "#aab2bf")
    style = {
        "InUse": f"bold {INK} on {colour}",
        "Allocated": f"{colour} on {ALLOCATED}",
        "Warm": WARM,
        "Foreign": FOREIGN,
    }[tile.state]
    edge = f"{INK} on {colour}" if tile.state == "InUse" else style
    below = tile.holder or tile.state.lower()
    lower_style = style.removeprefix("bold ") if tile.state == "InUse" else style
    return (
        Text().append("▎", edge).append(_fit(tile.profile, columns - 1), style),
        Text().append("▎", edge).append(_fit(below, columns - 1), lower_style),
    )


def _fit(words: str, columns: int) -> str:
    return words.ljust(columns) if len(words) <= columns else words[: columns - 1] + "…"


_LEGEND = (
    ("▎  ", f"{INK} on {PALETTE[0]}", "in use"),
    ("▎  ", f"{PALETTE[0]} on {ALLOCATED}", "being cut"),
    ("▎  ", WARM, "warm"),
    ("▎  ", FOREIGN, "foreign"),
    ("░░░", FREE, "free"),
)


def legend(entries: Sequence[tuple[str, str, str]]) -> Text:
    """One line that says what the tiles mean: (swatch, style, words) of each."""
    line = Text(" " * LABEL_WIDTH, no_wrap=True, overflow="ellipsis")
    for swatch, style, words in entries:
        line.append(swatch, style).append(f" {words}  ", FAINT)
    return line


def _job(job: Job, colour: str, width: int) -> list[RenderableType]:
    name_width = max(14, width - 66)
    name = job.name if job.namespace == "default" else job.key
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    line.append("■ ", colour).append(_fit(name, name_width), "bold").append(" ")
    line.append(_fit(job.profile, 9)).append(" ")
    line.append(_fit(job.reason, 14), _reason_style(job)).append(" ")
    line.append_text(_bar(job, colour)).append(" ").append(_numbers(job), FAINT)
    parts: list[RenderableType] = [line]
    if job.finished == "Complete":
        parts.append(_reason_line(job.message, FAINT))
    elif job.message and (job.finished or job.step is None):
        parts.append(_reason_line(job.message, BAD if job.finished else WAITING))
    return [part for part in parts if not isinstance(part, Text) or part.plain.strip()]


def _reason_style(job: Job) -> str:
    if job.finished:
        return GOOD if job.finished == "Complete" else BAD
    return "default" if job.step is not None else WAITING


def _bar(job: Job, colour: str) -> Text:
    share = 1.0 if job.finished == "Complete" else 0.0
    if job.step is not None and job.steps:
        share = min(1.0, job.step / job.steps)
    halves = round(share * BAR_WIDTH * 2)
    full, half = divmod(halves, 2)
    # In plain text the empty part must differ by its sign, not only by its colour.
    return Text("━" * full + "╸" * half, colour).append("┄" * (BAR_WIDTH - full - half), "#4a505b")


def _numbers(job: Job) -> str:
    if job.step is None or not job.steps:
        return ""
    words = f"{job.step}/{job.steps}"
    if not job.finished and job.eta_seconds is not None:
        words += f" {_duration(job.eta_seconds)}"
    return words


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}:{rest:02}"


def _reason_line(words: str, colour: str = WAITING) -> RenderableType:
    return Padding(Text(words, colour), (0, 1, 0, 3)) if words else Text()
