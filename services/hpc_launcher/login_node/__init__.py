"""What an operator installs on a login node. Imported by nothing of the product."""
