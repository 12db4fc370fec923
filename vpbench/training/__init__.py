"""Fitting a method: recipe, schedule, loop, selection."""
