"""The regression gate: a small grid of runs, compared with the rows of a version that was known to be good."""
