"""The executor ``local``: worker processes of this machine, one per GPU slot or several on the CPUs.

A worker is a fresh Python process that receives jobs as lines of JSON (:mod:`~vpbench.execution.executors.local.serve`); it
does one run after the other and keeps data sets open between them. Threads and GPU are set in its environment, before it
imports torch. What kills a worker - a signal, the system's out-of-memory killer, a crash in a library - costs the run that it
was doing, and nothing else.
"""

from vpbench.execution.executors.local.local_executor import Local

__all__ = ["Local"]
