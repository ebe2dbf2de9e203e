"""The discriminator worker."""
