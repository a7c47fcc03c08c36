#!/bin/sh
# Builds etcd, Kubernetes' API server and its controllers from their Go modules, as go.mod and go.sum beside this pin them.
#
#   tests/real/kubernetes/build.sh /usr/local/kubebuilder/bin       # needs Go 1.26; minutes the first time
set -eu
into="${1:?the folder for the programs is missing, such as /usr/local/kubebuilder/bin}"
cd "$(dirname "$0")"
version="$(go list -m -f '{{.Version}}' k8s.io/kubernetes)"
minor="${version#v1.}"
named="-X k8s.io/component-base/version.gitVersion=$version"
named="$named -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
built="$(mktemp -d)"
trap 'rm -rf "$built"' EXIT
CGO_ENABLED=0 GOTOOLCHAIN=local go build -trimpath -buildvcs=false -ldflags "-s -w $named" -o "$built/" tool
mv "$built/server" "$built/etcd" # etcd's module is named server
mkdir -p "$into"
mv "$built"/* "$into/"
