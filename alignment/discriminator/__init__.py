"""Losses, regularizers and metrics of the discriminator."""
