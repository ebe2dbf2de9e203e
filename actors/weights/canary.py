"""The text on which an engine proves that it computes with the published weights."""

CANARY_TOKENS = 16
"""Long enough to notice wrong weights, short enough to cost nothing."""
