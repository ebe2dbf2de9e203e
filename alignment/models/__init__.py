"""Policy and scalar-head networks."""
