"""The parts of Farlab: independent consumers of one event log, blind to each other."""
