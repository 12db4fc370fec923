"""Data sets: cards, sources, downloads, the image cache, and batches on the device."""
