"""A node full of simulated MIG GPUs behind the unmodified `pynvml`.

`library.SimulatedLibrary` has NVML's C symbol names, so it takes the place of `libnvidia-ml.so.1`. What
the driver would keep in the kernel is kept in one JSON file per node (`state.py`), shared by all processes
of the node and safe against kill -9 at any instruction. The rules of MIG are pure functions over that
state (`rules.py`); the C calling convention stands at the edge (`memory.py`, `device_symbols.py`,
`instance_symbols.py` and the like); failures are injected from outside (`faults.py`). Power, energy and
activity are a model too (`metering.py`), carried on at each reading (`meters.py`).
"""
