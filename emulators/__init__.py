"""Stand-ins that speak the real protocols, for `make up` and tests. Not for production; no logic of Farlab in them."""
