"""What an operator does: each act previewed, agreed to, and in the log with who and why."""
