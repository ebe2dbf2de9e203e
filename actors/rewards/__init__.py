"""Workers that score responses and are not trained."""
