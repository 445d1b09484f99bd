"""Simulations of the placement engine: workloads that arrive and leave, public traces, queues.

Nothing here talks to a cluster. A simulation feeds the real engine of `tessera.placement` with a workload and
counts what happened; the commands under `tessera simulate` parse, call and print.
"""
