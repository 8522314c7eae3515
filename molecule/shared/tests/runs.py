"""Runs of ansible-playbook that are killed."""

import os
import signal
import subprocess


def kill(run):
    """Kill a run that was started as the leader of a session, and its workers, as a controller that loses power does.

    Each worker has a session of its own, and outlives the main process until its task has ended.
    """
    os.kill(run.pid, signal.SIGSTOP)
    subprocess.run(["pkill", "-KILL", "--parent", str(run.pid)], check=False)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
