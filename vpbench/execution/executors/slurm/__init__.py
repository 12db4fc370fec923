"""The executor ``slurm``: job arrays on a Slurm cluster, through submitit.

The results folder has to be visible on the nodes at the same path: a task writes its runs' rows there itself, and submitit's
files lie in ``FOLDER/_slurm``. A note beside them, ``FOLDER/_slurm/<slurm job>.json``, says which runs are in which task, so
that a later command waits for what is in the queue instead of submitting it again, and ``collect`` finds what was lost.
Whether a task is alive is asked of ``squeue``, which works on clusters without accounting as well.
"""

from vpbench.execution.executors.slurm.slurm_executor import SlurmExecutor

__all__ = ["SlurmExecutor"]
