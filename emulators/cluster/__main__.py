"""`python -m emulators.cluster --config FILE`: runs until it is told to stop."""

from __future__ import annotations

import sys

from emulators.cluster.cluster import Cluster
from emulators.cluster.configuration import load
from emulators.program import run

if __name__ == "__main__":
    sys.exit(run("cluster", load, Cluster, lambda cluster: f"at {cluster.url}, see {cluster.kubeconfig}"))
