"""The files of a run directory and the status record."""
