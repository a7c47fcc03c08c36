"""An emulated Kubernetes cluster for development and tests: an API server whose pods are local processes."""
