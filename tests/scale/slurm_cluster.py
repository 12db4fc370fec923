"""A real Slurm on this machine for tests: munged, slurmctld and slurmd, started by hand and stopped afterwards.

Needs Debian's ``slurm-wlm`` and ``munge`` (``apt-get install slurm-wlm munge``); neither systemd, nor cgroups, nor a
database, nor anything in ``/etc``: key, configuration, state and sockets lie in one folder, and the programs find them by
the environment variable SLURM_CONF. By hand, for a shell with a cluster::

    python tests/scale/slurm_cluster.py bash -c 'sinfo; srun hostname'
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo", "squeue", "scontrol", "scancel")
PARTITION = "tiny"
START_SECONDS = 30

# Every wait of Slurm is as short as it goes, since tests are short; the node has more CPUs than it may have cores, and two
# GPUs that are nothing but a count.
CONFIGURATION = """
ClusterName=vpbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=5
MinJobAge=300
SlurmdTimeout=60
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if not _find(name)]


@contextmanager
def slurm(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A cluster of one node, while the block runs.

    Args:
        folder: for everything the cluster writes; a short path, since sockets lie in it (108 characters at most).
        cpus: of the node, whatever the machine has.

    Yields:
        the environment variable by which Slurm's programs find it.

    Raises:
        RuntimeError: when it does not come up within ``START_SECONDS``; with the end of its logs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    for path in (folder, folder / "munge.key"):
        path.chmod(0o711 if path.is_dir() else 0o600)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder, host=socket.gethostname().partition(".")[0], user=pwd.getpwuid(os.getuid()).pw_name, cpus=cpus,
            memory=_memory(), partition=PARTITION, controller_port=_free_port(), node_port=_free_port(),
        )
    )  # fmt: skip
    variables = {"SLURM_CONF": str(configuration)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start(folder, "munged", {}, "--foreground", "--force", f"--key-file={folder / 'munge.key'}",
                              f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munged.pid'}",
                              f"--log-file={folder / 'munged.log'}", f"--seed-file={folder / 'munge.seed'}"))  # fmt: skip
        _wait(folder, lambda: (folder / "munge.socket").exists(), daemons)
        daemons.append(_start(folder, "slurmctld", variables, "-D", "-i", "-f", str(configuration)))
        daemons.append(_start(folder, "slurmd", variables, "-D", "-f", str(configuration)))
        _wait(folder, lambda: "idle" in _states(variables), daemons)
        yield variables
    finally:
        if len(daemons) > 1:
            _clear(variables)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def _start(folder: Path, program: str, variables: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    found = _find(program)
    assert found, program
    with (folder / f"{program}.out").open("wb") as stream:
        return subprocess.Popen([found, *words], stdout=stream, stderr=stream, env={**os.environ, **variables})


def _states(variables: dict[str, str]) -> str:
    done = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, env={**os.environ, **variables})
    return done.stdout.strip()


def _clear(variables: dict[str, str]) -> None:
    """End all jobs, which would outlive the daemons."""
    environment, deadline = {**os.environ, **variables}, time.monotonic() + START_SECONDS
    for words in (["--signal=KILL", "--full"], []):
        subprocess.run(["scancel", *words, "--user", str(os.getuid())], env=environment, capture_output=True)
    while time.monotonic() < deadline:
        left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True)
        if not left.stdout.strip():
            break
        time.sleep(0.1)


def _wait(folder: Path, ready: Callable[[], bool], daemons: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
            ends = [f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in folder.glob("*.[lo][ou][gt]")]
            raise RuntimeError("Slurm did not come up.\n" + "\n".join(ends))
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _memory() -> int:
    """Megabytes of this machine, a little less than all."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 * 0.9)


if __name__ == "__main__":
    if missing := missing_programs():
        sys.exit(f"not installed: {', '.join(missing)}; apt-get install slurm-wlm munge")
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with slurm(place) as found_by:
            code = subprocess.run(sys.argv[1:] or ["bash"], env={**os.environ, **found_by}).returncode
    finally:
        with suppress(OSError):
            shutil.rmtree(place)
    sys.exit(code)
