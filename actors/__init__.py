"""Who computes it: one plain worker class a file. Ray is not known here."""
