"""The contract between the parts: messages, subjects, the session's state machine. No I/O and no transport."""
