"""The report of a run: what the files say, how texts compare, the plots and the page."""
