"""What an operator types: one file a family of commands, each with options, help and nothing else. Does no work."""
