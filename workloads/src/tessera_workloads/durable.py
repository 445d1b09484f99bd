"""Files that are there whole or not at all: written beside their place, flushed to disk, then renamed over
it.
"""

import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` atomically; after return the content survives a power cut (file and directory are
    synced).
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
