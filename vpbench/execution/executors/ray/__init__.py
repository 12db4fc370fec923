"""The executor ``ray``: a cluster that is there already, or one on this machine for the time of the grid.

One Ray task per run. Nodes need vpbench and the data, at the same paths as here; they need not see the results folder: a run
writes to a temporary folder of its node, and its row and files travel back and are stored by this process, which also holds
the claims. A lost node, or a worker that was killed, costs its runs a repetition and nothing else.
"""

from vpbench.execution.executors.ray.ray_executor import RayExecutor

__all__ = ["RayExecutor"]
