"""The device room: MIG geometry, device names, NVML, and the simulator that stands in for it.

Nothing here knows Kubernetes. Everything above talks to GPUs through `tessera.gpu.driver.Driver`.
"""
