"""The JupyterHub side of Farlab: a spawner that writes what users want into the event log and shows what follows."""
