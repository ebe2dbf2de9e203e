"""Every preference likelihood as a record, and how to look one up by name."""
