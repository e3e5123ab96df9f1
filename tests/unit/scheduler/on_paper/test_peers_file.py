"""PEERS.json: what is read is what was meant, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.on_paper.peers_file import (
    HostKind,
    Model,
    OwnerKind,
    kind_of,
    on_paper,
    one_of,
    parse,
    read_model,
    read_peers,
)
from swarm.errors import ConfigError, ModelUnsupported, UnknownKey
from swarm.toml_text import to_toml
from tests.support.paper import SECTIONS, host, owner, swarm, tiny_model

REGIONS = {"names": ["eu", "us"], "latency_ms": [[1, 40], [50, 2]], "pair_mbit": [[None, 8], [16, None]]}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def test_people_s_units_become_the_planner_s(model: Model) -> None:
    lab = host("lab", count=2, memory_gib=1.5, layer_ms=12.5, overhead_ms=2, up_mbit=8, down_mbit=16, region="us")
    home = host("home", region="eu")
    file = swarm(lab, home, owners=[owner("uni", region="us", ends_ms=7)], regions=REGIONS)
    paper = on_paper(parse(file, "peers.json"), model, num_stages=2)
    hosts, owners = paper.instance.hosts, paper.instance.owners
    regions, work = paper.instance.regions, paper.instance.work
    assert hosts.names == ("lab-1", "lab-2", "home")
    assert paper.kinds == ("lab", "lab", "home")
    assert hosts.memory_bytes[0] == 1.5 * 2**30
    assert hosts.layer_s[0] == pytest.approx(0.0125)
    assert hosts.overhead_s.tolist() == pytest.approx([0.002, 0.002, 0])
    assert hosts.up_bytes_per_s[0] == pytest.approx(1e6)
    assert hosts.down_bytes_per_s[0] == pytest.approx(2e6)
    assert hosts.region.tolist() == [1, 1, 0]
    assert (owners.names, owners.region.tolist(), owners.ends_s.tolist()) == (("uni",), [1], [0.007])
    assert regions.latency_s == pytest.approx(np.array([[0.001, 0.04], [0.05, 0.002]]))
    assert regions.pair_bytes_per_s.tolist() == [[np.inf, 1e6], [2e6, np.inf]]
    assert (work.num_layers, work.global_batch, work.microbatch_tokens, work.num_stages) == (6, 16, 8, 2)
    assert work.layer_state_bytes == model.costs.layer_state_bytes
    assert paper.first_layer == 1
    assert paper.notes == ()


def test_the_readme_s_example_is_read() -> None:
    readme = Path(__file__).parents[4] / "README.md"
    example = readme.read_text(encoding="utf-8").partition("```json\n")[2].partition("```")[0]
    peers = parse(json.loads(example), "README.md")
    assert (len(peers.hosts), peers.region_names) == (2, ("eu", "us"))


def test_speed_may_be_given_in_tflops(model: Model) -> None:
    fast = {key: value for key, value in host("fast", tflops=1e-6).items() if key != "layer_ms"}
    uni = {key: value for key, value in owner("uni", tflops=1e-6).items() if key != "ends_ms"}
    instance = on_paper(parse(swarm(fast, owners=[uni]), "peers.json"), model).instance
    assert instance.hosts.layer_s[0] == pytest.approx(model.costs.layer_flops / 1e6)
    assert instance.owners.ends_s[0] == pytest.approx(model.costs.ends_flops / 1e6)


def test_without_regions_nothing_lies_between_peers(model: Model) -> None:
    instance = on_paper(parse(swarm(host("a")), "peers.json"), model).instance
    assert instance.regions.latency_s.tolist() == [[0.0]]
    assert np.isinf(instance.regions.pair_bytes_per_s).all()


def test_a_kind_is_named_or_described(model: Model) -> None:
    peers = parse(swarm(host("lab", count=3)), "peers.json")
    assert kind_of("lab", peers) is peers.hosts[0]
    described = {key: value for key, value in host("x", layer_ms=5).items() if key != "name"}
    kind = kind_of(json.dumps(described), peers)
    assert isinstance(kind, HostKind)
    assert one_of(kind, peers, model).layer_s.tolist() == [0.005]
    assert kind_of(json.dumps(owner("x")), peers) == OwnerKind(name="x", ends_ms=10, up_mbit=80, down_mbit=80)
    assert kind_of("uni", peers) is peers.owners[0]
    with pytest.raises(ConfigError, match=r"S100.*'lib'.*use lab"):
        kind_of("lib", peers)
    with pytest.raises(UnknownKey, match=r"S101.*did you mean layer_ms"):
        kind_of(json.dumps(described | {"layer_msec": 1}), peers)
    with pytest.raises(ConfigError, match=r"S100.*--add is not JSON"):
        kind_of("{", peers)
    with pytest.raises(ConfigError, match=r"S100.*region 'mars'"):
        kind_of(json.dumps(described | {"region": "mars"}), peers)


def _without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


WRONG: dict[str, tuple[object, str]] = {
    "no object": ([], "S100.*peers.json is list"),
    "no hosts": ({"owners": []}, "S100.*lacks hosts"),
    "empty hosts": (swarm(), "S100.*no hosts"),
    "no owner": (swarm(host("a"), owners=[]), "S100.*no owners"),
    "top key": (swarm(host("a"), region={}), "S101.*'region'.*did you mean regions"),
    "host is text": (swarm("a"), r"S100.*hosts\[0\] is str"),  # type: ignore[arg-type]
    "host key": (swarm(host("a", memory_gb=1)), r"S101.*hosts\[0\].*did you mean memory_gib"),
    "owner key": (swarm(host("a"), owners=[owner("o", end_ms=3)]), r"S101.*owners\[0\].*did you mean ends_ms"),
    "missing": (swarm(_without(host("a"), "up_mbit")), r"S100.*hosts\[0\] lacks up_mbit"),
    "no speed": (swarm(_without(host("a"), "layer_ms")), "S100.*a has neither of layer_ms and tflops"),
    "two speeds": (swarm(host("a", tflops=3)), "S100.*a has both of layer_ms and tflops"),
    "text": (swarm(host("a", memory_gib="much")), r"S100.*hosts\[0\].memory_gib is 'much'"),
    "flag": (swarm(host("a", up_mbit=True)), "S100.*up_mbit is True"),
    "negative": (swarm(host("a", up_mbit=-5)), "S100.*a has up_mbit -5.0"),
    "nan": (swarm(host("a", layer_ms=float("nan"))), "S100.*a has layer_ms nan"),
    "infinite": (swarm(host("a", memory_gib=float("inf"))), "S100.*a has memory_gib inf"),
    "absurd": (swarm(host("a", down_mbit=1e12)), "S100.*a has down_mbit .*800,000 Mbit/s"),
    "zero line": (swarm(host("a"), owners=[owner("o", up_mbit=0)]), "S100.*o has up_mbit 0.0"),
    "too long": (swarm(host("a", up_mbit=10**400)), "S100.*larger than any float"),
    "count": (swarm(host("a", count=0)), "S100.*a has count 0"),
    "half a peer": (swarm(host("a", count=1.5)), "S100.*count is 1.5"),
    "too many": (swarm(host("a", count=99_999), host("b", count=9)), "S100.*more than 100,000 peers"),
    "twice": (swarm(host("a"), host("a")), "S100.*a is there twice"),
    "twice by count": (swarm(host("a", count=2), host("a-2")), "S100.*a-2 is there twice"),
    "host and owner": (swarm(host("uni")), "S100.*uni is there twice"),
    "no name": (swarm(host(" ")), "S100.*a name is ' '"),
    "control characters": (swarm(host("a\x1b[31m")), "S100.*a name is"),
    "half a character": (swarm(host("\ud800")), "S100.*a name is"),
    "unlisted region": (swarm(host("a", region="eu")), "S100.*region 'eu'.*regions.names"),
    "unknown region": (
        swarm(host("a", region="uk"), owners=[owner("o", region="eu")], regions=REGIONS),
        "S100.*region 'uk'.*eu, us",
    ),
    "no region": (swarm(host("a", region="eu"), regions=REGIONS), "S100.*uni has no region"),
    "no region names": (swarm(host("a"), regions=REGIONS | {"names": []}), "S100.*regions.names is empty"),
    "region twice": (swarm(host("a"), regions=REGIONS | {"names": ["eu", "eu"]}), "S100.*eu is there twice"),
    "region name": (swarm(host("a"), regions=REGIONS | {"names": ["eu", 7]}), "S100.*a name is 7"),
    "no latencies": (swarm(host("a"), regions={"names": ["eu"]}), "S100.*lacks latency_ms"),
    "small matrix": (swarm(host("a"), regions=REGIONS | {"latency_ms": [[1, 2]]}), "S100.*latency_ms is not 2 rows"),
    "ragged": (swarm(host("a"), regions=REGIONS | {"latency_ms": [[1, 2], [1]]}), "S100.*latency_ms is not 2 rows"),
    "flat": (swarm(host("a"), regions=REGIONS | {"pair_mbit": [1, 2]}), "S100.*pair_mbit is not 2 rows"),
    "null latency": (
        swarm(host("a"), regions=REGIONS | {"latency_ms": [[1, None], [1, 1]]}),
        "S100.*latency_ms holds None",
    ),
    "negative latency": (
        swarm(host("a"), regions=REGIONS | {"latency_ms": [[1, -1], [1, 1]]}),
        "S100.*latency_ms holds -1",
    ),
    "no link": (
        swarm(host("a"), regions=REGIONS | {"pair_mbit": [[None, 0], [1, None]]}),
        "S100.*pair_mbit holds 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    values, words = WRONG[case]
    with pytest.raises(ConfigError, match=words):
        parse(values, "peers.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"hosts": [' + b"1" * 5000 + b"]}"])
def test_files_that_are_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"S100.*peers\.json"):
        read_peers(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"S100.*nothing\.json"):
        read_peers(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match=r"S100.*nothing\.toml"):
        read_model(tmp_path / "nothing.toml")


def test_a_model_needs_no_admin_yet(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(SECTIONS, {}), encoding="utf-8")
    assert read_model(path).layout.trunk.num_layers == 6
    short = SECTIONS | {"model": {**SECTIONS["model"], "num_hidden_layers": 2}}
    path.write_text(to_toml(short, {}), encoding="utf-8")
    with pytest.raises(ModelUnsupported, match="S120"):
        read_model(path)
