"""Makes, watches and ends the pods of sessions on clouds. Opens no tunnel and judges no user."""
