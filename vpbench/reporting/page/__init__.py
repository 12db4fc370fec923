"""The store as a static site: a leaderboard, the figures, a page per method and per run. Imports no torch."""

from vpbench.reporting.page.site import write_page

__all__ = ["write_page"]
