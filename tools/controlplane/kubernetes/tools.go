//go:build tools

// Package controlplane pins the Kubernetes binaries of the local cluster.
//
// k8s.io/kubernetes requires its staging modules at v0.0.0 and its replace
// directives do not reach us, so go.mod names every staging module itself.
package controlplane

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
