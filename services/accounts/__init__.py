"""Who may use what: admits or rejects every start, and reserves and releases quotas exactly once."""
