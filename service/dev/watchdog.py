"""Ending a process of ours when we end, however that happens."""

import contextlib
import subprocess
from collections.abc import Sequence
from typing import Any


class Watchdog:
    """Runs `command` when this process ends before disarm() was called.

    A shell waits for our end of a pipe to close, which it does even when we are killed. A line
    through that pipe tells the shell that it is not needed any more.
    """

    def __init__(self, command: Sequence[str], **popen_arguments: Any) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || exec "$@"', "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Not in the terminal's group of processes: Ctrl-C is not for it.
            **{"start_new_session": True, **popen_arguments},
        )

    def disarm(self) -> None:
        """End the watch without running the command."""
        with contextlib.suppress(BrokenPipeError):
            self._shell.communicate(b"\n")
        self._shell.wait()
