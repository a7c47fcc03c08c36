"""Fuzzing: what comes from outside as bytes must be understood or refused, never break a part."""
