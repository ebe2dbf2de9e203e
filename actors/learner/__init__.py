"""One rank of the policy learner."""
