"""What a process takes of the processor and of memory."""

import importlib
import sys
import time
from typing import Any


class Usage:
    """Of a process and of all that it has started. (Those that it starts later are not seen.)"""

    def __init__(self, pid: int) -> None:
        parent = importlib.import_module("psutil").Process(pid)
        self.processes = [parent, *parent.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds so far, of all threads."""
        return sum(cpu_of(process) for process in self.processes)

    def memory(self) -> float:
        """MiB that are resident."""
        return float(sum(process.memory_info().rss for process in self.processes)) / 2**20


def cpu_of(process: Any) -> float:
    """In Linux a process's own clock counts nanoseconds; what psutil reads counts hundredths of a second."""
    if sys.platform == "linux":
        return time.clock_gettime((~process.pid << 3) | 2)  # as clock_getcpuclockid(3) makes it
    times = process.cpu_times()
    return float(times.user + times.system)
