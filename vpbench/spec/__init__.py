"""What a run is, as data: its specification, recipe, precision and device."""
