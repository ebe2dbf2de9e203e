"""Reading, splitting and tokenizing demonstrations and comparisons."""
