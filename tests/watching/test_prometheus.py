"""The metrics as Prometheus itself reads them, and what is made of them."""

import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from dataplane_client.blocking import connect
from dataplane_protocol import ContentAddress, ObjectNotFoundError
from tests.engines.ports import free_port

UNITS = Path(__file__).parents[2] / "systemd"

#: What a scrape finds; `last` is not there before the second one.
PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: dataplaned
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def promtool(*arguments: str, text: str | None = None) -> None:
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, check=False, cwd=UNITS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard_queries() -> list[str]:
    dashboard = json.loads((UNITS / "grafana-dashboard.json").read_text())
    return [
        target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.fixture
def has_promtool(require):
    require(shutil.which("promtool") is not None, "promtool, of Debian's prometheus")


def test_the_rules_are_right_and_do_what_they_should(has_promtool):
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_panels_have_places_and_numbers_of_their_own():
    dashboard = json.loads((UNITS / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert all(panel["type"] == "row" or panel["targets"] for panel in panels)


class Prometheus:
    """A server of its own, until it is closed."""

    def __init__(self, directory: Path, target: int) -> None:
        self.port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(PROMETHEUS.format(rules=UNITS / "alerts.yml", port=target))
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def ask(self, path: str, **query: str) -> object:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> list[object]:
        """Give what a query finds now; nothing while the server does not answer yet."""
        try:
            return self.ask("query", query=query)["result"]
        except OSError:
            return []


@pytest.fixture
def watched(require, start_daemon, tmp_path) -> Generator[tuple[object, Prometheus]]:
    require(shutil.which("prometheus") is not None, "prometheus")
    port = free_port()
    config = tmp_path / "c.toml"
    config.write_text(
        f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
        f'[backend.local]\ntype = "filesystem"\nroot = "{tmp_path}/store"\n'
    )
    daemon = start_daemon(("--config", str(config)))
    with contextlib.closing(Prometheus(tmp_path, port)) as prometheus:
        yield daemon, prometheus


@pytest.mark.slow
def test_prometheus_reads_it_and_every_query_has_data(watched, has_promtool):
    daemon, prometheus = watched
    absent = ContentAddress("blake3:" + "0" * 64)
    rounds = 0

    def work() -> None:
        nonlocal rounds
        rounds += 1
        with connect(daemon.socket_path) as client:
            for size in (100, 100_000):
                receipt = client.ingest_stream([rounds.to_bytes(4, "big") * size]).receipt
                b"".join(client.serve_object(receipt.content_address))
                client.verify_object(receipt.content_address)
                if rounds % 2:
                    client.delete_object(receipt.content_address)
            with contextlib.suppress(ObjectNotFoundError):
                client.serve_object(absent)

    def is_scraped() -> bool:
        work()
        found = prometheus.value("count_over_time(up{job='dataplaned'}[1m]) >= 4")
        return bool(found)

    assert daemon.becomes(is_scraped)
    assert prometheus.value("up")[0]["value"][1] == "1"
    left = set(dashboard_queries())

    def all_have_data() -> bool:
        work()
        left.difference_update([query for query in left if prometheus.value(query)])
        return not left

    assert daemon.becomes(all_have_data), left
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
            assert rule["state"] == "inactive", rule
    text = urllib.request.urlopen(
        prometheus.ask("targets")["activeTargets"][0]["scrapeUrl"], timeout=10
    ).read()
    promtool("check", "metrics", text=text.decode())


@pytest.mark.slow
def test_every_metric_of_the_rules_is_there(watched):
    daemon, prometheus = watched
    with connect(daemon.socket_path) as client:
        client.ingest_stream([b"x" * 100_000])
    rules = (UNITS / "alerts.yml").read_text()
    names = {word for word in rules.replace("(", " ").replace("{", " ").replace("[", " ").split()
             if word.startswith("dataplaned_")}  # fmt: skip
    assert len(names) > 8

    def all_are_there() -> bool:
        return all(prometheus.value(name) for name in names)

    assert daemon.becomes(all_are_there), [name for name in names if not prometheus.value(name)]
