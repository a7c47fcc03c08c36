"""Settings of every test run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time is no verdict: a busy machine must not fail a property that holds.
settings.register_profile("farlab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("farlab")
