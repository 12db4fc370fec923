"""Trackers by their names; each module defines one subclass of :class:`vpbench.execution.tracker.Tracker`."""
