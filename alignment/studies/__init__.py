"""Exact studies of divergences and annotators."""
