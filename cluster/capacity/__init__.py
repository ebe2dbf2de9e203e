"""The arithmetic of irlign plan: step time and GPU allocation."""
