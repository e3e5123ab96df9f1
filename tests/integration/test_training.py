"""A swarm of real processes over real daemons computes what one process computes, also when a host dies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import FinishedRun, busiest_host, largest_relative, train
from swarm.errors import RunError
from swarm.local.fleet import Event, Fleet, Program
from swarm.training.checkpoint import CheckpointReader
from tests.support.swarms import STAGES, run_values, weights_differ

KILL_AFTER = 2
LAYER_S = 0.02


@pytest.mark.usefixtures("warm_starts")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_killed_host_changes_nothing(tmp_path: Path, staleness: int) -> None:
    values = run_values("fp32")
    values["schedule"] = values["schedule"] | {"staleness": staleness}
    shards = write_random_shards(tmp_path / "text", 1, 2, 4000)
    # Hosts that are equally fast beyond doubt, so that the plan gives every stage two of them.
    devices = {f"host-{number}": ("--device", f"emulated:{LAYER_S}") for number in range(2 * STAGES)}
    fleet = Fleet(tmp_path / "fleet", values, shards, num_hosts=2 * STAGES, num_stages=STAGES, options=devices)
    killed: list[str] = []

    def kill(running: Fleet, event: Event) -> None:
        if event["step"] == KILL_AFTER and not killed:
            victim = busiest_host(running)
            killed.append(running.peer_id(victim))
            running.programs[victim].kill()

    done = train(fleet, "killed", 180.0, kill)

    assert [peer for peer, _, _ in done.lost_peers] == killed
    assert any(killed[0] in work.route for step in done.steps for work in step.work), "the victim had worked"
    assert killed[0] not in {peer for work in done.steps[-1].work for peer in work.route}
    assert done.steps[-1].plan > done.steps[0].plan
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5
    losses = [
        (ours.loss_sum / ours.tokens, theirs.mean_loss)
        for ours, theirs in zip(done.steps, reference.steps, strict=True)
    ]
    assert largest_relative(losses) <= 1e-5
    assert done.replicas_equal()
    check_export(done, tmp_path)


def check_export(done: FinishedRun, folder: Path) -> None:
    """The exported model is the trained one, and transformers loads it with its tokenizer."""
    target = folder / "export"
    Program("export", ["export", str(done.checkpoint), str(target), "--json"], folder / "logs").expect_success()
    model = AutoModelForCausalLM.from_pretrained(target)
    reader = CheckpointReader(done.checkpoint)
    head = reader.part("model-ends")["lm_head.weight"]
    assert torch.equal(model.lm_head.weight, head)
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.decode(tokenizer("def f():").input_ids) == "def f():"


@pytest.mark.timeout(900)
def test_the_demo_writes_its_figures(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the quick brown fox jumps over the lazy dog\n" * 500, encoding="utf-8")
    figures = tmp_path / "figures.json"
    folder = tmp_path / "demo"
    arguments = ["demo", "--folder", str(folder), "--corpus", str(corpus), "--steps", "3", "--json", str(figures)]
    Program("demo", arguments, tmp_path / "logs").expect_success(200.0)
    found = json.loads(figures.read_text())
    assert (found["steps"], found["hosts"], found["owners"]) == (3, 4, 2)
    assert 5.0 < found["first_loss"] < 6.0
    assert found["last_loss"] < found["first_loss"]
    assert found["tokens_per_s"] > 0
    assert AutoModelForCausalLM.from_pretrained(found["export_dir"]).config.num_hidden_layers == 6


@pytest.mark.usefixtures("warm_starts")
@pytest.mark.timeout(900)
def test_a_diverging_run_ends_and_says_why(tmp_path: Path) -> None:
    values = run_values("fp32") | {
        "optimizer": {"name": "sgd", "learning_rate": 1e18, "max_grad_norm": 0.0, "warmup_steps": 0}
    }
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    with Fleet(tmp_path / "fleet", values, shards, num_hosts=2, num_stages=STAGES) as fleet:
        with pytest.raises(RunError, match="lower the learning rate"):
            fleet.wait_finished(150.0)
        assert fleet.scheduler.process.wait(120.0) == RunError("", "").exit_code
        assert "lower the learning rate" in fleet.scheduler.last_words


@pytest.mark.timeout(120)
def test_a_demo_that_is_told_to_end_leaves_nothing_running(tmp_path: Path) -> None:
    demo = Program("demo", ["demo", "--folder", str(tmp_path / "demo"), "--steps", "3"], tmp_path / "logs")
    process = psutil.Process(demo.process.pid)
    listening = tmp_path / "demo" / "logs" / "owner-0.jsonl"
    while not listening.exists():  # until the fleet's peers are being started
        with pytest.raises(subprocess.TimeoutExpired):
            demo.process.wait(0.2)
    family = process.children(recursive=True)
    assert len(family) >= 2
    demo.process.terminate()
    assert demo.process.wait(120.0) == 130
    _, alive = psutil.wait_procs(family, timeout=30.0)
    assert not alive
