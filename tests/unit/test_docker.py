"""What `docker/` holds is well formed, shut as far as it can be, and starts programs that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.dashboard.server import parse_address
from tests.support.command_line import SOURCES, verb_of

DOCKER = SOURCES / "docker"
IMAGE = "swarm:cpu"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LAB = {each["kind"]: each for each in yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text())}
LIMIT_S = 120.0


def check(program: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def parsed(words: list[str]) -> dict[str, Any]:
    """The arguments that a container starts the console command with."""
    name, *rest = words
    return dict(verb_of(name).make_context(name, rest).params)


def test_the_dockerfile_is_as_a_linter_wants_it() -> None:
    check("hadolint", "--failure-threshold", "info", str(DOCKER / "Dockerfile"))


def test_the_image_runs_as_nobody_and_needs_no_shell() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert 'ENTRYPOINT ["swarm"]' in lines
    (base,) = [line for line in lines if line.startswith("ARG BASE=")]
    assert re.fullmatch(r"ARG BASE=python:\d+\.\d+-slim-\w+", base), "no moving tag"
    assert not [line for line in lines if line.startswith("ADD")]


def test_the_compose_file_is_one() -> None:
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_shut(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "healthcheck" in service or service["profiles"] == ["setup"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "others see it only if asked for"
    assert not service["image"].endswith(":latest")
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or source == "./data" or (DOCKER / source).is_file()


def test_only_the_scheduler_and_its_watcher_see_the_admins_folder() -> None:
    seeing = {name for name, each in SERVICES.items() if any(v.startswith("run:") for v in each.get("volumes", ()))}
    assert seeing == {"init", "scheduler", "prometheus"}
    assert "run:/etc/prometheus/state:ro" in SERVICES["prometheus"]["volumes"]


@pytest.mark.parametrize("name", [name for name, each in SERVICES.items() if each["image"] == IMAGE])
def test_a_service_starts_what_there_is(name: str) -> None:
    service = SERVICES[name]
    arguments = parsed(service["command"])
    health = service.get("healthcheck", {}).get("test", [])
    if health[:2] == ["CMD", "swarm"]:
        assert parsed(health[2:])["state_dir"] == arguments["state_dir"], "it asks the peer that runs there"


def test_prometheus_scrapes_what_is_served() -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    host, _ = parse_address(str(parsed(SERVICES["scheduler"]["command"])["dashboard"]))
    assert host == "0.0.0.0", "so it asks for a token"  # noqa: S104 - inside a container
    assert jobs["swarm"]["static_configs"] == [{"targets": ["scheduler:8080"]}]
    token = parsed(SERVICES["init"]["command"])["run_dir"] / "dashboard.token"
    assert jobs["swarm"]["authorization"]["credentials_file"] == str(token), "the volume lies at `state` at both"
    assert all((DOCKER / name).exists() for name in config["rule_files"])
    rules = yaml.safe_load((DOCKER / "prometheus-alerts.yaml").read_text())["groups"][0]["rules"]
    assert all(rule.keys() >= {"alert", "expr", "annotations"} for rule in rules)


def test_grafana_is_given_its_source_and_the_board() -> None:
    given = {each["source"]: each["target"] for each in SERVICES["grafana"]["configs"]}
    assert given.keys() == COMPOSE["configs"].keys()
    source = yaml.safe_load(COMPOSE["configs"]["grafana-source"]["content"])["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    boards = yaml.safe_load(COMPOSE["configs"]["grafana-boards"]["content"])["providers"][0]["options"]["path"]
    assert SERVICES["grafana"]["volumes"] == [f"./grafana-dashboard.json:{boards}/grafana-dashboard.json:ro"]


def test_a_lab_lends_its_cluster_and_nothing_more() -> None:
    assert LAB.keys() == {"Namespace", "Secret", "DaemonSet"}
    spec = LAB["DaemonSet"]["spec"]
    pod = spec["template"]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    (host,) = pod["containers"]
    shut = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert host["securityContext"] == shut
    arguments = parsed(host["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in host["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert Path(arguments["invite"]).parent.as_posix() in mounts
    assert Path(arguments["invite"]).name in LAB["Secret"]["stringData"]
    assert arguments["port"] == host["ports"][0]["containerPort"]
    assert arguments["memory_mib"] < 8 * 1024, "its limit is told to it, and lies below the pod's"
    assert host["resources"]["limits"]["memory"] == "8Gi"
    for probe in ("startupProbe", "livenessProbe"):
        program, *words = host[probe]["exec"]["command"]
        assert program == "swarm"
        assert parsed(words)["state_dir"] == arguments["state_dir"]
