"""The version of vpbench, which rows, caches and weight files record."""

__version__ = "0.1.0"
