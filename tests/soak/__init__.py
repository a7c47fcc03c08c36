"""Soak and load: thousands of sessions over their lives through the real services, whose memory must not grow."""
