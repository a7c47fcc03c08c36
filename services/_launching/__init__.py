"""What every launcher does alike: ends, waiting, comparison with the log, what a server is started with."""
