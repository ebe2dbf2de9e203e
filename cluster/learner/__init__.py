"""Ray Train worker groups of learner ranks."""
