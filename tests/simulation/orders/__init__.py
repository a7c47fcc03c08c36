"""Every order: the services' own handlers, and a choice at each of their awaits. Small worlds, and many of them."""
