"""Checks before the first worker starts."""
