"""Kill tests: the whole installation as real processes, killed and frozen at random under load."""
