"""From a request to runs: specifications, the plan, and executing it."""
