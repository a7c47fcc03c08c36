"""What runs inside the job. Staged as files, never imported by the launcher: no dependency, Python 3.9 or newer."""
