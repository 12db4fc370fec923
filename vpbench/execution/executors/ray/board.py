"""The actor through which Ray tasks and the command exchange messages."""

from __future__ import annotations

from typing import Any


class Board:
    """A Ray actor on the node of the command: tasks ask it whether to begin or to pause, and send it their progress."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, str, Any]] = []
        self._begun: set[str] = set()
        self._closed = self._paused = False

    def begin(self, run_id: str, environment: dict[str, Any]) -> bool:
        """Whether a task may do its run."""
        if self._closed:
            return False
        self._begun.add(run_id)
        self.send(run_id, "begun", environment)
        return True

    def send(self, run_id: str, kind: str, content: Any = None) -> None:
        self._messages.append((run_id, kind, content))

    def take(self) -> list[tuple[str, str, Any]]:
        """The messages since the last call, in order."""
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> set[str]:
        """Let no task begin any more; the runs that have begun."""
        self._closed = True
        return self._begun

    def pause(self) -> None:
        """Let all tasks pause their runs."""
        self._paused = True

    def paused(self) -> bool:
        return self._paused
