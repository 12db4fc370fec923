"""Backbone, method and head as one torch module, and the registry of methods."""
