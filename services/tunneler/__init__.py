"""Makes a user's server reachable: forwards ports through login nodes, and proves that they lead to that server."""
