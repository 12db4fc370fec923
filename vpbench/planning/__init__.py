"""From a request to the runs that are missing: suites, recipes, plans."""
