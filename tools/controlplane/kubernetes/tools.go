//go:build tools

// Package controlplane pins the binaries of the local cluster that share Kubernetes'
// libraries: one module, so that what they share is compiled once.
//
// k8s.io/kubernetes requires its staging modules at v0.0.0 and its replace
// directives do not reach us, so go.mod names every staging module itself.
// Helm is of the minor version that was made for the same Kubernetes.
package controlplane

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "helm.sh/helm/v4/cmd/helm"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
