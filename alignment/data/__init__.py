"""Demonstrations and comparisons: read, split, tokenized through the chat template, drawn."""
