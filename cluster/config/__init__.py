"""What a job file may say. Imports neither torch nor Ray."""
