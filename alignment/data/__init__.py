"""Demonstrations: read, split, tokenized through the model's chat template, drawn in order."""
