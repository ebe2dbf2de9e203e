"""Every divergence between expert and policy as a record, and how to look one up by name."""
