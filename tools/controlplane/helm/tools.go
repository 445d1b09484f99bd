//go:build tools

// Package helm pins a binary of the local cluster.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
