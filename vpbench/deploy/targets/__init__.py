"""Forms that a trained model is exported to, one file per form; its name is the name for ``vpbench export --to``."""
