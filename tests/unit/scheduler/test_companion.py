"""A process beside the scheduler ends with it, whenever that is."""

import signal
import subprocess
import sys

import psutil

PARENT = """
import asyncio, sys
from scheduler.companion import Companion

async def main():
    async with Companion("sleeper", ("-c", "import time; time.sleep(600)"), print) as companion:
        print(companion._process.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_it_ends_with_a_scheduler_that_is_killed_while_it_starts() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs([child], timeout=60)
        assert not alive
        assert gone
