"""Errors caused by user input or the environment. Each message is one line: what is wrong, the value, and how to fix it."""

from __future__ import annotations

from vpbench.core.extras import runnable


class VpbenchError(Exception):
    """Base class: an error in the input or the environment, not a bug. The command line prints it without a traceback."""

    exit_code = 2

    def __str__(self) -> str:
        return runnable(super().__str__())


class UsageError(VpbenchError):
    """An unknown name, a wrong option, a value of the wrong type."""


class DataError(VpbenchError):
    """A data set that is missing, damaged or unusable."""

    exit_code = 3


class MissingDataError(DataError):
    """A data set whose folder does not exist."""


class WrongCountsError(DataError):
    """The number of classes or images differs from the card."""


class WrongSplitsError(DataError):
    """The counts match the card, the hash of the split list does not."""


class WeightsError(VpbenchError):
    """Weights that are missing, damaged or of another architecture."""

    exit_code = 4


class StoreError(VpbenchError):
    """A results folder or a result file that cannot be read or written."""

    exit_code = 5


class UnsupportedError(VpbenchError):
    """A method that does not support this backbone; recorded as status ``unsupported``."""

    exit_code = 6


class DivergedError(VpbenchError):
    """The loss became NaN or infinite; recorded as status ``diverged``."""

    exit_code = 1


class StoppedError(VpbenchError):
    """SIGTERM was received, e.g. from a scheduler that preempts the job; the exit code is 128 + 15, as in a shell."""

    exit_code = 143
