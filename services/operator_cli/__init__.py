"""The operator's command `farlab`: starts, checks, reads and steers an installation."""
