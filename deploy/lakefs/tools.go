//go:build tools

// Package lakefs pins the lakeFS server which the local stack builds with `go build`.
package lakefs

import _ "github.com/treeverse/lakefs/cmd/lakefs"
