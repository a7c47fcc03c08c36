"""Deterministic simulation: every service's real code on a broker, sites, SSH and clocks that one seed drives."""
