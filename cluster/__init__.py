"""Orchestration on Ray: the driver, fleets, placement, jobs and the command line."""
