"""Row 12: a full disk, too few descriptors, too little memory. A numbered error, a remedy, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peers.loading import Loading
from swarm.admission import write_invite
from swarm.errors import CheckpointError, MachineLimit
from swarm.training.checkpoint import CheckpointReader, CheckpointWriter, checkpoints
from swarm.training.compute import Compute, Priority
from swarm.training.device import Device
from swarm.wire.messages import GroupLoaded, GroupNotLoaded, PrepareGroup
from tests.faults.rigs import is_at_work, trial
from tests.support.processes import run_command
from tests.support.runs import Run
from tests.support.tiny_models import run_config

MIB = 1 << 20
PATIENCE_S = 150.0
START = "import sys; from swarm.cli import main; sys.argv[0] = 'swarm'; main()"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")


@dataclass(frozen=True, slots=True)
class Disk:
    """A small one."""

    path: Path

    def fill(self) -> None:
        """Until nothing more fits."""
        with (self.path / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs(self.path).f_bfree == 0, "the fault fired"

    def free(self) -> None:
        """What filled it is gone."""
        (self.path / "filler").unlink()


@contextlib.contextmanager
def small_disk(path: Path, num_bytes: int) -> Iterator[Disk]:
    path.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(path)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("this machine's root may not mount")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", 2 * MIB) as found:
        yield found


def write(root: Path, step: int, num_values: int) -> None:
    with CheckpointWriter(root, run_config(), "") as writer:
        for number in range(4):
            writer.add_part(f"model-{number:05d}", {"weight": torch.full((num_values,), float(step))})
        writer.finish(step, {"alice": step})


@needs_root
@pytest.mark.parametrize("num_values", [40_000, 1_000_000])
def test_a_full_disk_leaves_the_old_checkpoint_intact(disk: Disk, num_values: int) -> None:
    """It is full in the second part, or in the first."""
    root = disk.path / "checkpoints"
    write(root, 5, 60_000)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=r"\[S600\] cannot write model-0000\d.*; free space"):
        write(root, 10, num_values if num_values > 60_000 else 60_000 + num_values)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    CheckpointReader(root / "step-00000005").verify()
    write(root, 10, 1000)
    assert [folder.name for folder in checkpoints(root)] == ["step-00000010", "step-00000005"]


@needs_root
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("warm_starts")
def test_a_full_disk_at_the_scheduler_holds_the_run_until_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "fleet" / "run", 8 * MIB) as disk, trial(tmp_path, hosts=2, stages=1) as running:
        running.until("a checkpoint", lambda: running.rig.newest_checkpoint > 0, PATIENCE_S)
        disk.fill()
        before = {path: path.read_bytes() for path in disk.path.glob("checkpoints/step-*/*")}
        running.until("a warning", lambda: "S604" in str(running.told("scheduler", "warning")), PATIENCE_S)
        (told,) = (event["problem"] for event in running.told("scheduler", "warning") if "S604" in event["problem"])
        assert "audit.sqlite (database or disk is full); free space" in told
        assert before.items() <= {path: path.read_bytes() for path in disk.path.glob("checkpoints/step-*/*")}.items()
        disk.free()
        running.more_steps(3, PATIENCE_S)


@needs_root
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("warm_starts")
def test_a_full_disk_at_a_host_stops_its_journal_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "fleet" / "host-0", 8 * MIB) as disk, trial(tmp_path, hosts=2, stages=1) as running:
        disk.fill()
        host = running.rig.fleet.programs["host-0"]
        host.wait_until(lambda event: "No space left" in event.get("text", ""), "word of it", PATIENCE_S)
        running.more_steps(10, PATIENCE_S)
        disk.free()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("warm_starts")
@pytest.mark.parametrize(
    "name",
    ["host-0", pytest.param("owner-0", marks=pytest.mark.long), pytest.param("scheduler", marks=pytest.mark.long)],
)
def test_too_few_descriptors_for_a_while_end_nobody(tmp_path: Path, name: str) -> None:
    """The process may open none any more, no file and no stream; when it may again, all is as before."""
    with trial(tmp_path, hosts=2, stages=1) as running:
        program = running.rig.fleet.programs[name]
        usual = resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        told = [program, running.rig.fleet.scheduler]
        running.until("the limit", lambda: any("Too many open files" in str(each.events) for each in told), PATIENCE_S)
        if name == "host-0":
            running.more_steps(5, PATIENCE_S)
        resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE, usual)
        step = running.rig.newest_step
        running.more_steps(3, PATIENCE_S)
        if name != "scheduler":
            running.until("its work", lambda: is_at_work(running, name, step), PATIENCE_S)


def test_too_few_descriptors_to_join(tmp_path: Path) -> None:
    """Not even for the event loop."""
    run = Run()
    invite = write_invite(run.admin, run.invite())
    command = ("-c", f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)); {START}")
    ended = run_command("join", invite, "--state-dir", str(tmp_path / "state"), command=command)
    assert "raise the limit of open files, as with `ulimit -n 4096`" in ended.failed_with("S130")
    assert not (tmp_path / "state").exists()


# --- memory -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def memory_for(num_bytes: int) -> Iterator[None]:
    """This process may take so much more, and nothing after that."""
    usual = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + num_bytes, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)


# Its matrices are larger than what an allocator keeps for later: each is asked of the system, whatever ran before.
LARGE = run_config(hidden_size=512, intermediate_size=20480, num_attention_heads=8, num_key_value_heads=8)


def test_a_layer_that_does_not_fit_into_memory_is_not_loaded(tmp_path: Path) -> None:
    """The leader hears of it in a sentence, and the peer can load again when there is memory."""
    reports: list[object] = []

    async def main() -> None:
        place: Any = SimpleNamespace(config=LARGE, device=Device("cpu", "fp32"), keep_bytes=0, report=reports.append)
        order = PrepareGroup(term=1, transfer=1, num_steps=0, first_layer=1, last_layer=2, donors=(), next_cursor=0)
        await asyncio.to_thread(len, ())  # the thread is there before memory is short
        with memory_for(32 * MIB):
            loading = Loading(order, place)
            with pytest.raises(MachineLimit, match=r"\[S130\] this machine has too little memory .*lower --memory-mib"):
                await loading.reached(0)
        again = Loading(order, place)
        await again.reached(0)
        for each in (loading, again):
            await each.close()

    asyncio.run(main())
    failed, loaded = reports
    assert isinstance(failed, GroupNotLoaded)
    assert "too little memory" in failed.problem
    assert isinstance(loaded, GroupLoaded)


def test_work_that_does_not_fit_into_memory_is_told_to_its_owner(tmp_path: Path) -> None:
    """The compute thread goes on with whatever fits."""

    async def main() -> None:
        compute = Compute(1)
        with memory_for(16 * MIB), pytest.raises(MachineLimit, match="S130"):
            await compute.run(Priority.FORWARD, torch.zeros, 64 * MIB)
        assert await compute.run(Priority.FORWARD, len, "there") == 5
        compute.close()

    asyncio.run(main())
