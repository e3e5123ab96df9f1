"""`swarm plan` as an admin uses it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from scheduler.on_paper import verbs
from swarm.errors import ConfigError, ModelTooLarge, RunError, SwarmError
from swarm.toml_text import to_toml
from tests.support.paper import SECTIONS, host, owner, swarm

PROGRAM = typer.Typer()
PROGRAM.command("plan")(verbs.plan)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    peers, model = tmp_path / "peers.json", tmp_path / "run.toml"
    peers.write_text(json.dumps(swarm(host("lab", count=3), host("phone", memory_gib=0))), encoding="utf-8")
    model.write_text(to_toml(SECTIONS, {}), encoding="utf-8")
    return [str(peers), "--model", str(model)]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(PROGRAM, list(arguments))


def error_of(*arguments: str) -> SwarmError:
    found = run(*arguments).exception
    assert isinstance(found, SwarmError), found
    return found


def test_words_and_a_picture(files: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    ended = run(*files, "--picture", str(picture))
    assert ended.exit_code == 0, ended.output
    for part in ("tokens/s predicted", "phone", "lab", "One more peer", str(picture.name)):
        assert part in " ".join(ended.stdout.split())
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 - our own document


def test_json_is_the_same_every_time(files: list[str]) -> None:
    first, second = run(*files, "--json", "--stages", "2"), run(*files, "--json", "--stages", "2")
    assert first.stdout == second.stdout
    found = json.loads(first.stdout)
    assert len(found["stages"]) == 2
    assert found["one_more"][0]["kind"] == "lab"
    assert {each["kind"] for each in found["one_more"]} == {"lab", "uni", "phone"}
    assert found["standbys"][0]["reason"] == "memory"


def test_one_more_of_what_is_asked_for(files: list[str]) -> None:
    described = json.dumps(host("rack", layer_ms=1))
    found = json.loads(run(*files, "--json", "--stages", "3", "--add", "lab", "--add", described).stdout)
    gains = {each["kind"]: each for each in found["one_more"]}
    assert gains.keys() == {"lab", "rack"}
    assert all(each["anew_tokens_per_s"] >= each["staying_tokens_per_s"] >= 0 for each in gains.values())
    # Three hosts of two layers each wait for one another: where they stay, a fourth is of no use.
    assert gains["lab"]["staying_tokens_per_s"] == 0


def test_one_more_owner_helps_where_owners_are_slow(files: list[str]) -> None:
    slow = swarm(host("lab", count=3), owners=[owner("uni", ends_ms=5000)])
    Path(files[0]).write_text(json.dumps(slow), encoding="utf-8")
    found = json.loads(run(*files, "--json").stdout)
    assert found["limit"] == "owners"
    gains = {each["kind"]: each["staying_tokens_per_s"] for each in found["one_more"]}
    assert gains["uni"] > 0.5 * found["tokens_per_s"]
    assert gains["lab"] < 0.1 * found["tokens_per_s"]


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        (("--add", "lob"), ConfigError, r"S100.*'lob'.*use lab, phone, uni"),
        (("--stages", "9"), RunError, r"S700.*9 stages"),
        (("--picture", "plan.bmp"), ConfigError, r"S100.*plan\.bmp.*\.svg"),
        (("--picture", "/proc/nowhere/plan.svg"), ConfigError, r"S100.*/proc/nowhere/plan\.svg"),
    ],
)
def test_wrong_flags(files: list[str], more: tuple[str, str], kind: type[SwarmError], words: str) -> None:
    found = error_of(*files, *more)
    assert isinstance(found, kind)
    with pytest.raises(kind, match=words):
        raise found


def test_nothing_is_written_where_anything_is_wrong(files: list[str], tmp_path: Path) -> None:
    peers = Path(files[0])
    peers.write_text(json.dumps(swarm(host("small", memory_gib=0), owners=[owner("o")])), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    found = error_of(*files, "--picture", str(tmp_path / "plan.svg"))
    assert isinstance(found, ModelTooLarge)
    assert "MiB are missing" in str(found)
    assert sorted(tmp_path.iterdir()) == before


def test_missing_files(files: list[str]) -> None:
    assert "absent.json" in str(error_of("absent.json", *files[1:]))
    assert "absent.toml" in str(error_of(files[0], "--model", "absent.toml"))
    assert run(files[0]).exit_code == 2
