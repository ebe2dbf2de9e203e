"""Algorithms: the token MDP, divergences, objectives, data and reports. No Ray, no vLLM."""
