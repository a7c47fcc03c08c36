"""The system of compose.yaml, in containers."""
