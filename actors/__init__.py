"""Workers: plain classes that sample, score, compute rewards and train. No Ray."""
