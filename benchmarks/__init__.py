"""What is measured, as data: datasets, suites, recipes and backbones as TOML files, and the papers' printed numbers."""
