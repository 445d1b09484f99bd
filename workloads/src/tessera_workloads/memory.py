"""Peak memory as tensor bytes, counted where tensors are made.

The resident size of a CPU process says little (about 500 MiB is torch itself), so on the CPU a dispatch mode
sees every operator and adds up the storages that are alive. That costs Python time per operator, so the
runner keeps it on for the first steps of a phase only: from the second step on every step allocates the same.
On CUDA the caching allocator keeps the same figure at no cost.

In a simulated slice the counter also plays the part of the full GPU: beyond the slice's memory it raises, as
CUDA would.
"""

import resource
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tessera_workloads.errors import OutOfMemory


class TensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive, from the tensors given and from every operator's
    outputs.
    """

    def __init__(self, *, limit_bytes: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0
        self.peak = 0
        self._limit_bytes = limit_bytes
        self._alive: dict[int, Any] = {}

    def include(self, tensors: Sequence[torch.Tensor]) -> None:
        """Count tensors that were made before the counter was switched on (weights, optimiser state)."""
        for tensor in tensors:
            self._add(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To skip the compiler it would first be imported; see `optimizers` for why that is spared.
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_iter(outputs):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return outputs

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            if self._alive.pop(key, None) is not None:
                self.current -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.current += size
        self.peak = max(self.peak, self.current)
        if self._limit_bytes is not None and self.current > self._limit_bytes:
            raise OutOfMemory(
                f"tensors need {self.current / 2**20:.0f} MiB, the simulated slice has "
                f"{self._limit_bytes / 2**20:.0f} MiB: ask for a larger profile or a smaller batch"
            )


def peak_resident_bytes() -> int:
    """The largest resident size that this process has had (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
