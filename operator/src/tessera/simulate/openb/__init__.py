"""Placement of fractional GPUs on the openb trace, as in the FGD paper (Weng et al., USENIX ATC 2023).

The trace is a production cluster of 1213 GPU nodes and lists of pods that ask for CPU, memory and a part of
a GPU, or for whole GPUs. Pods arrive in random order until they ask for 130 % of the GPUs; what counts is
the share of the GPUs that is allocated in the end. There is no MIG geometry here, so these policies are not
those of `tessera.placement`: the trace is the public yardstick on which FGD was published, and this package
measures the same idea against it.

`trace` reads the files, `arrivals` draws a run, `cluster` keeps what is left, `replay` places pod after
pod, `policies`, `fragmentation` and `expected_fill` choose, `experiment` runs seeds and policies. Needs
numpy.
"""
