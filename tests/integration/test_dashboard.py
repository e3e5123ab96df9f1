"""The dashboard in a browser: it follows a swarm, tells who died, shows texts as texts, and keeps strangers out."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.corpora import write_random_shards
from scheduler.new_run import create
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet, Program
from tests.support.swarms import run_values
from tests.support.watched import peer_facts, status

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LAYER_S = 0.02
LIMIT_MS = 120_000
PHONE = {"width": 390, "height": 800}
SCRIPT = "<script>window.taken = 1</script>"
IMAGE = "<img src=x onerror='window.taken = 1'>"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `make chromium` installs it"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=LIMIT_MS)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(slots=True)
class Watched:
    """A page, and what must not happen on it."""

    context: BrowserContext
    page: Page = field(init=False)
    hosts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.page.set_default_timeout(LIMIT_MS)
        self.page.on("request", lambda request: self._went_to(request.url))
        self.page.on("websocket", lambda socket: self._went_to(socket.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)

    def _went_to(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.hostname or address)

    def check(self) -> None:
        self.context.close()
        assert not self.problems
        assert self.hosts == {"127.0.0.1"}, "requests left the machine"


def fetched(address: str, **headers: str) -> tuple[int, str]:
    """Status and body of an answer."""
    try:
        with urlopen(Request(address, headers=headers), timeout=LIMIT_MS / 1000) as answer:  # noqa: S310 - our server
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


# --- a swarm that trains ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("warm_starts")
def test_a_swarm_is_followed_and_a_killed_peer_turns_up_as_dead(tmp_path: Path, browser: Browser) -> None:
    values = run_values("fp32") | {"schedule": {"steps": 10_000, "checkpoint_every_steps": 10_000}}
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    options = {f"host-{number}": ("--device", f"emulated:{LAYER_S}") for number in range(3)}
    options |= {"scheduler": ("--dashboard", "0"), "owner-0": ("--metrics-port", "0")}
    with Fleet(tmp_path / "fleet", values, shards, num_hosts=3, num_stages=1, options=options) as fleet:
        address = fleet.scheduler.wait_for("dashboard")["url"]
        watched = Watched(browser.new_context())
        page = watched.page
        page.goto(address)
        expect(page.get_by_role("heading", level=1)).to_have_text("run test")
        check_progress(page)
        victim = fleet.peer_id("host-0")
        fleet.programs["host-0"].kill()
        box = page.locator(f'a.box[href="/peer/{victim}"]')
        expect(box).to_have_class("box lost", timeout=LIMIT_MS)
        expect(page.get_by_role("status", name="alerts")).to_contain_text(f"{victim[-6:]} was lost")
        check_progress(page)
        check_metrics(address, fleet.programs["owner-0"].wait_for("metrics")["url"])
        box.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(f"peer {victim[-6:]}")
        expect(page.locator(".facts")).to_contain_text(victim)
        expect(page.locator("header .state")).to_have_text("lost")
        expect(page.get_by_role("table").first).to_contain_text("lost")
        watched.check()
        check_that_training_goes_on_without_it(fleet)
    told = [json.loads(line) for line in RunDir(fleet.run_dir).events.read_text().splitlines()]
    assert {"dashboard", "plan", "step", "lost"} <= {event["event"] for event in told}


def check_progress(page: Page) -> None:
    """Steps are committed while somebody looks, without a reload."""
    number = "Number(document.querySelector('.figure dd').textContent.replaceAll(',', '').split(' / ')[0])"
    page.wait_for_function(f"{number} > 0")
    before = page.evaluate(number)
    page.wait_for_function(f"before => {number} > before", arg=before)


def check_that_training_goes_on_without_it(fleet: Fleet) -> None:
    children = psutil.Process(fleet.scheduler.process.pid).children()
    (dashboard,) = (child for child in children if "scheduler.dashboard" in child.cmdline())
    dashboard.kill()
    fleet.scheduler.wait_for("warning", lambda event: "the dashboard ended" in event["problem"])
    steps = [event["step"] for event in fleet.scheduler.events if event["event"] == "step"]
    fleet.wait_step(steps[-1] + 2)


def check_metrics(address: str, address_of_owner: str) -> None:
    found = {}
    for each in (address + "metrics", address_of_owner):
        families = text_string_to_metric_families(fetched(each)[1])
        found |= {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
    assert "swarm_peer_computed_tokens_total" in found
    assert found["swarm_steps_total"] > 0
    assert found["swarm_plan_number"] >= 2, "one without the victim"


# --- a run that is over, with peers that mean ill -------------------------------------------------------------------


@pytest.fixture
def hostile_run(tmp_path: Path) -> RunDir:
    """Its peers choose names and words of theirs as no member could."""
    create(tmp_path / "run", SCRIPT, None, None)
    run_dir = RunDir(tmp_path / "run")
    peers = status()["peers"] | {
        SCRIPT: peer_facts(waiting_for=IMAGE),
        "host-e": peer_facts(state="lost", links=[{"peer": IMAGE, "round_trip_s": 0.1, "bytes_per_s": 1e6}]),
    }
    stages = [{"layers": [1, 5], "replicas": ["host-a", SCRIPT], "routing_weights": [1.0, 1.0]}]
    plan = status()["plan"] | {"stages": stages}
    run_dir.status.write_text(json.dumps(status(peers=peers, plan=plan, phase="finished", run=SCRIPT)))
    told = {"event": "lost", "peer": "host-e", "problem": IMAGE, "step": 3, "time_s": 1.0}
    run_dir.events.write_text(json.dumps(told) + "\n")
    return run_dir


@pytest.fixture
def guarded(hostile_run: RunDir, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a dashboard that others than this machine could reach."""
    arguments = ["dashboard", str(hostile_run.root), "--address", "0.0.0.0:0", "--json"]
    program = Program("dashboard", arguments, tmp_path / "logs")
    try:
        told = program.wait_for("dashboard")
        path = Path(told["token_file"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        token = path.read_text()
        assert token not in json.dumps(told), "events are kept and shown"
        yield f"http://127.0.0.1:{urlsplit(told['url']).port}/", token
    finally:
        program.stop()


def test_strangers_stay_out(guarded: tuple[str, str]) -> None:
    address, token = guarded
    for path in ("", "metrics", "peer/host-a", "_nicegui_ws/socket.io/?EIO=4&transport=polling"):
        assert fetched(address + path)[0] == 403
        assert fetched(address + path, Authorization="Bearer wrong")[0] == 403
    assert fetched(address + "?token=wrong")[0] == 403
    assert fetched(address + "metrics", Authorization=f"Bearer {token}")[0] == 200
    assert fetched(address, Authorization=f"Bearer {token}", Origin="http://evil.example")[0] == 403


def test_whatever_peers_say_is_shown_as_text(guarded: tuple[str, str], browser: Browser) -> None:
    address, token = guarded
    watched = Watched(browser.new_context())
    page = watched.page
    page.goto(f"{address}?token={token}")
    assert page.url == address, "the token does not stay in the address"
    expect(page.get_by_role("heading", level=1)).to_have_text(f"run {SCRIPT}")
    expect(page.get_by_role("region", name="Peers and what they contributed")).to_contain_text(IMAGE)
    expect(page.get_by_role("region", name="Events")).to_contain_text(IMAGE)
    page.get_by_role("link", name="peer cript>").click()
    expect(page.locator(".facts")).to_contain_text(SCRIPT)
    expect(page.locator(".facts")).to_contain_text(IMAGE)
    assert page.evaluate("window.taken") is None
    watched.check()


def test_the_dashboard_is_for_everybody(guarded: tuple[str, str], browser: Browser) -> None:
    """With a keyboard, on a phone, in the dark."""
    address, token = guarded
    watched = Watched(browser.new_context(viewport=PHONE, color_scheme="dark"))
    page = watched.page
    page.goto(f"{address}?token={token}")
    expect(page.locator("canvas")).to_have_count(3)
    # What a browser shows settles some time after it is there: these wait for it.
    page.wait_for_function(f"document.documentElement.scrollWidth <= {PHONE['width']}")
    page.wait_for_function("getComputedStyle(document.body).backgroundColor == 'rgb(15, 19, 24)'")
    assert page.evaluate("document.documentElement.lang") == "en-US"
    nameless = "[...document.querySelectorAll('a, button')].filter(e => !e.ariaLabel && !e.innerText.trim())"
    page.wait_for_function(f"{nameless}.length == 0")
    for name in ("Loss over steps", "Throughput over steps", "Where steps' time went"):
        expect(page.get_by_role("img", name=name)).to_be_visible()
    for name in ("Pipeline", "Peers and what they contributed", "Events", "Links between peers, as measured"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    page.get_by_role("button", name="peer", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="peer", exact=True)).to_have_attribute("aria-sort", "ascending")
    page.locator("a.box").first.focus()
    page.wait_for_function("getComputedStyle(document.activeElement).outlineStyle == 'solid'")
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.classList.contains('box')")
    watched.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dashboard_has_no_barrier_that_axe_finds(guarded: tuple[str, str], browser: Browser, scheme: str) -> None:
    """Contrast, names, roles and structure of both views."""
    address, token = guarded
    watched = Watched(browser.new_context(color_scheme=scheme))
    page = watched.page
    page.goto(f"{address}?token={token}")
    expect(page.locator("canvas")).to_have_count(3)
    assert_no_barriers(page)
    page.get_by_role("link", name="peer cript>").click()
    expect(page.locator(".facts")).to_contain_text(SCRIPT)
    assert_no_barriers(page)
    watched.check()


def assert_no_barriers(page: Page) -> None:
    """axe-core's findings that are serious or critical, and what they are about."""
    page.evaluate(importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    found = page.evaluate("async () => await axe.run(document, {resultTypes: ['violations']})")
    assert len(found["passes"]) > 10, "it looked"
    grave = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert not [(each["id"], each["help"], [node["html"] for node in each["nodes"]]) for each in grave]


def test_everything_that_can_be_used_is_reached_with_tab_and_has_a_name(
    guarded: tuple[str, str], browser: Browser
) -> None:
    address, token = guarded
    watched = Watched(browser.new_context())
    page = watched.page
    page.goto(f"{address}?token={token}")
    expect(page.locator("canvas")).to_have_count(3)
    usable = set(page.evaluate(f"{_USABLE}.map({_DESCRIBED})"))
    assert len(usable) > 10
    reached: dict[str, str] = {}
    for _ in range(len(usable) + 10):
        page.keyboard.press("Tab")
        reached |= [page.evaluate(f"[({_DESCRIBED})(document.activeElement), ({_NAME})(document.activeElement)]")]
    assert usable <= reached.keys(), "some of it cannot be reached"
    assert all(reached[each] for each in usable), "some of it has no name"
    watched.check()


_USABLE = """[...document.querySelectorAll('a[href], button, input, select, [role=button], [tabindex="0"]')]
    .filter(each => each.checkVisibility({visibilityProperty: true}) && !each.disabled)"""
_DESCRIBED = "each => each.tagName + ' ' + (each.getAttribute('href') ?? '') + ' ' + each.className + each.innerText"
_NAME = "each => (each.ariaLabel || each.innerText || [...each.labels ?? []].map(each => each.innerText).join()).trim()"
