"""Published weights: files, checksums and canary."""
