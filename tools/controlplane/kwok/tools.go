//go:build tools

// Package kwok pins a binary of the local cluster.
package kwok

import _ "sigs.k8s.io/kwok/cmd/kwok"
