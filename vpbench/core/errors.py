"""The errors that a user can cause. Each carries one line that names the thing, the value and the way out."""

from __future__ import annotations


class VpbenchError(Exception):
    """A mistake in the input or the surroundings, not in vpbench. The command line prints it without a traceback."""

    exit_code = 2


class UsageError(VpbenchError):
    """An unknown name, a wrong option, a value of the wrong type."""


class DataError(VpbenchError):
    """A data set that is missing, broken or unusable as it is."""

    exit_code = 3


class MissingDataError(DataError):
    """A data set whose folder is not there."""


class WrongCountsError(DataError):
    """A data set with another number of classes or images than its card says."""


class WrongSplitsError(DataError):
    """A data set with the right counts and another split list than its card says."""


class WeightsError(VpbenchError):
    """Weights that are missing, broken or belong to another architecture."""

    exit_code = 4


class StoreError(VpbenchError):
    """A results folder or a result file that cannot be read or written."""

    exit_code = 5


class UnsupportedError(VpbenchError):
    """A method that cannot work on this backbone; recorded as the status ``unsupported``."""

    exit_code = 6


class DivergedError(VpbenchError):
    """The loss became NaN or infinite; recorded as the status ``diverged``."""

    exit_code = 1


class StoppedError(VpbenchError):
    """SIGTERM, by which a machine or a scheduler asks for the end; the exit code is a shell's for that signal."""

    exit_code = 143
