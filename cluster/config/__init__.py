"""The settings of a job. Imports neither torch nor Ray."""
