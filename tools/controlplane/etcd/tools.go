//go:build tools

// Package etcd pins the etcd server of the local cluster. Its server module has
// replace directives, so `go install pkg@version` refuses it; a requiring module builds it.
package etcd

import _ "go.etcd.io/etcd/server/v3"
