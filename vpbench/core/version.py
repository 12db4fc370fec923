"""The version of vpbench, recorded in rows, caches and weight files."""

__version__ = "0.1.0"
