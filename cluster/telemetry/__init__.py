"""Names and export of metrics, logs and trackers."""
