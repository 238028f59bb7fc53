"""Runs one job of the stand-in sbatch: its output, its signal before the end of its time, and again after a requeue."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["SLURM_STANDIN"])


def steps(job: str) -> list[int]:
    """The processes that srun has under way in this job."""
    return [int(path.read_text()) for path in STATE.glob(f"{job}.*.step")]


def main() -> int:
    script, how, output, *arguments = sys.argv[1:]
    to_batch, _, rest = how.rpartition(":")
    name = rest.partition("@")[0]
    last = os.environ.get("SLURM_STANDIN_UNTIL", "")
    job, code = os.environ["SLURM_JOB_ID"], 0
    for restarts in range(20):
        variables = {**os.environ, "SLURM_RESTART_COUNT": str(restarts)}
        requeued = STATE / f"{job}.requeue"
        requeued.unlink(missing_ok=True)
        with Path(output).open("ab") as stream:
            process = subprocess.Popen([script, *arguments], stdout=stream, stderr=stream, env=variables)
            # The first time of a job is over as soon as there is such a file.
            while process.poll() is None and (restarts or not last or not any(Path().rglob(last))):
                time.sleep(0.02)
            if process.poll() is None:
                number = getattr(signal, f"SIG{name}", signal.SIGTERM)
                for target in [process.pid] if to_batch == "B" else steps(job):
                    os.kill(target, number)
            code = process.wait()
        if not requeued.exists():
            return code
    return code


sys.exit(main())
