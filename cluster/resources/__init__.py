"""Resources that workers need, and that a machine or cluster has."""
