"""Work that runs on Tessera slices: the workload protocol, the runner and one package per seed workload.

Reading order: `protocol` (what a workload says), `runner` (what is done with it), `noiser` (the smallest
example). Nothing here needs a cluster: `tessera-worker train noiser --out DIR` is the same code in a pod and
on a laptop.
"""

__version__ = "0.1.0"
