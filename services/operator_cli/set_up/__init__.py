"""Setting up: the first files, checks of everything needed, and what support asks for. Runs no service."""
