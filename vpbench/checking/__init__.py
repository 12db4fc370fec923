"""The regression gate: a small grid of runs, compared with the rows of a version whose numbers were right."""
