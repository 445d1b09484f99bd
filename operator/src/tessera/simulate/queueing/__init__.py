"""Queueing on MIG slices, in virtual time: jobs wait until a slice is free, as in the public benchmark
MIGBench.

`workload` draws the jobs (bit by bit those of MIGBench, by `go_random`), `geometry` says what fits on a
GPU, `policies` which place is taken, `simulation` plays the events, `measures` integrates what is reported,
and `experiment` runs seeds and arms.
"""
