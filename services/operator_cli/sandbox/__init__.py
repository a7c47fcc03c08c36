"""Recorded sessions said again in another installation. Changes nothing where they came from."""
