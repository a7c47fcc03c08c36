"""What every service stands on: log, consumer, vault, leases, settings, logs and metrics. Not a service itself."""
