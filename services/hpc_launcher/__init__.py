"""Makes, watches and ends the jobs of sessions on HPC systems. Opens no tunnel and judges no user."""
