//go:build tools

// Package kubernetesapi pins the Kubernetes API server on which the tests try manifests and operators.
package kubernetesapi

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
