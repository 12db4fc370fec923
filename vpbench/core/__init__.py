"""Errors, names, hashes, atomic writes, cards and the plug-in registry; imports nothing else of vpbench."""
