"""`python -m tessera_workloads.reproduction`: train, then write the page.

The page holds every workload that has results below `--out`, so that one of them can be run again by itself.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tessera_workloads import durable
from tessera_workloads.errors import ExitCode
from tessera_workloads.registry import BUILT_IN
from tessera_workloads.reproduction.report import judge, page, section
from tessera_workloads.reproduction.runs import Run, train_all

_WIDEST = 1000
"""Pixels of a picture on the page."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every gate holds, 3 when one does not, 1 when a run did not end as a training does."""
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(given)
    names = arguments.only or sorted(BUILT_IN)
    runs = [Run(name, seed, arguments.out) for seed in arguments.seeds for name in names]
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {line}", flush=True)

    problems = train_all(runs, workers=arguments.workers, say=say)
    found = {name: _results(name, arguments.out) for name in sorted({*BUILT_IN, *names})}
    held = _write_page(
        arguments.page, {name: of for name, of in found.items() if of}, arguments.out, command=_command(given)
    )
    say(f"{len(runs)} runs, {arguments.workers} at a time; {arguments.page}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return ExitCode.CRASHED
    return ExitCode.COMPLETE if held else ExitCode.GATE_FAILED


def _command(given: Sequence[str]) -> str:
    """What a person types for these arguments."""
    return f'make reproduce REPRODUCE_ARGS="{shlex.join(given)}"' if given else "make reproduce"


def _results(name: str, out: Path) -> dict[int, dict[str, Any]]:
    """What the seeds of a workload left, by seed."""
    found = {}
    for path in Run(name, 0, out).directory.parent.glob("seed-*/result.json"):
        result = json.loads(path.read_bytes())
        found[int(result["seed"])] = result
    return dict(sorted(found.items()))


def _write_page(
    target: Path, found: Mapping[str, Mapping[int, dict[str, Any]]], out: Path, *, command: str
) -> bool:
    """Write the page and its pictures; returns whether every gate on it holds."""
    images = target.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    sections = []
    for name, results in found.items():
        first = next(iter(results))
        pictures = [
            _write_picture(Run(name, first, out).directory / file, images, name)
            for file in results[first]["files"]
            if "/" not in file and file.endswith(".png")
        ]
        summary = BUILT_IN[name].summary if name in BUILT_IN else ""
        sections.append(section(name, summary, results, [f"images/{picture}" for picture in pictures]))
    every = [result for results in found.values() for result in results.values()]
    missing = sorted(set(BUILT_IN) - set(found))
    conditions = [*_conditions(every), *([f"Not run here yet: {', '.join(missing)}."] if missing else [])]
    durable.write_bytes(target, page(sections, command=command, conditions=conditions).encode())
    return all(check.passed for results in found.values() for check in judge(results) if check.kind == "gate")


def _write_picture(path: Path, images: Path, workload: str) -> str:
    """Copy a picture beside the page, as small as it is good enough for reading."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDEST, 10 * _WIDEST), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, format="JPEG", quality=80, optimize=True)
    name = f"{workload.replace(':', '-')}-{path.stem}.jpg"
    durable.write_bytes(images / name, buffer.getvalue())
    return name


def _conditions(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """When, on what and with which versions the results were made; each kind of it once."""
    days = sorted({result["writtenAt"][:10] for result in results})
    machines = sorted({f"{result['device']['type']} {result['device']['name']}" for result in results})
    threads = sorted({result["threads"] for result in results})
    versions: dict[str, set[str]] = {}
    for result in results:
        for package, version in result["versions"].items():
            versions.setdefault(package, set()).add(version)
    said = ", ".join(f"{package} {'/'.join(sorted(of))}" for package, of in sorted(versions.items()))
    return [
        f"{' to '.join(dict.fromkeys([days[0], days[-1]]))}; {', '.join(machines)}, "
        f"{'/'.join(map(str, threads))} thread(s) a run, {os.cpu_count()} cores shared; {platform.system()}.",
        f"{said}.",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reproduce", description="Train every workload and write the page.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this workload; repeatable (all)")
    parser.add_argument("--seeds", type=_seeds, default=[0, 1, 2], metavar="A-B", help="default 0-2")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="runs at a time (default 2)")
    parser.add_argument("--out", type=Path, default=Path("out/reproduction"), help="what the runs leave")
    parser.add_argument("--page", type=Path, default=Path("docs/results/workloads.md"))
    return parser


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a seed nor a range such as 0-2")
    return list(range(int(first), int(last or first) + 1))


if __name__ == "__main__":
    sys.exit(main())
