"""A stand-in for a login node: an SSH server that forwards to compute nodes and to nothing else."""
