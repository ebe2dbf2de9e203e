"""Groups of single-process workers: start, sync, retry, drain, replace, scale."""
