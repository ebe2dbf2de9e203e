"""The sections of a job file that configure workers. Imports no torch."""
