"""Hypothesis without a time limit for one example: a busy machine is no defect of the contract."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("schemas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("schemas")
