"""Where Ray tasks ask whether to go on, and tell how they get on."""

from __future__ import annotations

from typing import Any


class Board:
    """A Ray actor beside this process: tasks ask here whether to begin, and tell how they get on."""

    def __init__(self) -> None:
        self._said: list[tuple[str, str, Any]] = []
        self._begun: set[str] = set()
        self._closed = self._paused = False

    def begin(self, run_id: str, environment: dict[str, Any]) -> bool:
        """Whether a task may do its run."""
        if self._closed:
            return False
        self._begun.add(run_id)
        self.tell(run_id, "begun", environment)
        return True

    def tell(self, run_id: str, kind: str, content: Any = None) -> None:
        self._said.append((run_id, kind, content))

    def take(self) -> list[tuple[str, str, Any]]:
        """What was told since the last call, in order."""
        said, self._said = self._said, []
        return said

    def close(self) -> set[str]:
        """Let no task begin any more; the runs that have begun."""
        self._closed = True
        return self._begun

    def pause(self) -> None:
        """Let all tasks leave their runs."""
        self._paused = True

    def paused(self) -> bool:
        return self._paused
