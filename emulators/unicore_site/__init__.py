"""A stand-in for a UNICORE site: its REST API, and jobs as local processes."""
