"""Where and when: the driver, fleets, placement, jobs and the command line, on Ray."""
