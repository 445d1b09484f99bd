"""Makes what a local cluster needs before anything waits for it: binaries, images, the workers' libraries.

`tessera local up` makes all of this by itself when it needs it. Tests have time limits, though, and the first
build takes minutes, so the test runner calls this first; what it makes is found in the cache afterwards.

    python -m tessera.local.prepare integration|e2e|images
    python -m tessera.local.prepare --print helm
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tessera.local.build import CONTROL_PLANE_PROGRAMS, NODE_PROGRAMS, PROGRAMS, binary, ensure_binaries
from tessera.local.errors import LocalClusterError
from tessera.local.host import can_have_node
from tessera.local.images import build_operator_image, build_worker_image_thin
from tessera.local.progress import Progress
from tessera.local.worker_environment import build_worker_environment

LEVELS = ("integration", "e2e", "images")


def programs_for(level: str, *, as_root: bool) -> tuple[str, ...]:
    """The binaries that a level of tests uses: simulated nodes in both, a real one in e2e as root."""
    if level == "images":
        return ()
    node = NODE_PROGRAMS if level == "e2e" and as_root else ()
    return (*CONTROL_PLANE_PROGRAMS, "helm", "kwok", *node)


def prepare(level: str, *, progress: Progress) -> None:
    """Builds what the level needs and the cache lacks.

    Raises:
        LocalClusterError: with the reason and the remedy.
    """
    as_root = can_have_node()
    if programs := programs_for(level, as_root=as_root):
        ensure_binaries(programs, progress=progress)
    if level == "images" or (level == "e2e" and as_root):
        for image in (build_operator_image(progress=progress), build_worker_image_thin(progress=progress)):
            progress.say(f"{image.name} is in {image.archive}")
    if level == "e2e" and as_root:
        build_worker_environment(progress=progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tessera.local.prepare", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("level", nargs="?", choices=LEVELS)
    what.add_argument("--print", dest="program", choices=sorted(PROGRAMS), help="build it and print its path")
    options = parser.parse_args(arguments)
    try:
        if options.program:
            print(binary(options.program))
        else:
            prepare(options.level, progress=Progress())
    except LocalClusterError as error:
        print(f"tessera: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
