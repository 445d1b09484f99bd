"""Generate the Python modules of the kubelet's protocols, or check that the committed ones are current.

Run `python -m tessera.agent.generate_proto [--check]` with grpcio-tools installed (a development dependency).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).parent / "proto"
_PACKAGE = "tessera/agent/proto"


def generate(source_root: Path, output: Path) -> list[Path]:
    """Write the modules under `output` in package layout; returns their paths.

    Raises `RuntimeError` when protoc fails.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]

    sources = sorted(str(path.relative_to(source_root)) for path in PROTO.glob("*.proto"))
    arguments = [
        "protoc",
        f"-I{source_root}",
        f"--python_out={output}",
        f"--grpc_python_out={output}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed: {' '.join(arguments)}")
    return sorted((output / _PACKAGE).glob("*_pb2*.py"))


def stale() -> list[str]:
    """Names of committed modules that differ from freshly generated ones."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = generate(PROTO.parents[2], Path(directory))
        return [
            path.name
            for path in fresh
            if not (PROTO / path.name).exists() or (PROTO / path.name).read_bytes() != path.read_bytes()
        ]


def main() -> int:
    """Write, or with `--check` compare; returns the exit code."""
    if "--check" in sys.argv[1:]:
        different = stale()
        if different:
            print(
                f"generated modules are stale: {', '.join(different)}; "
                "run python -m tessera.agent.generate_proto"
            )
        return 1 if different else 0
    (PROTO / "__init__.py").write_text('"""Generated protocol modules; see README.md."""\n', encoding="utf-8")
    generate(PROTO.parents[2], PROTO.parents[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
