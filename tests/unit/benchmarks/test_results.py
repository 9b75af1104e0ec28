import json
import xml.etree.ElementTree as ET

import pytest

from tests.benchmarks.plot import bars
from tests.benchmarks.results import MOST_CPU_S, WANTED, Results


@pytest.fixture
def results():
    results = Results()
    for value in (1e9, 3e9, 2e9):
        results.add("sha256", "limit", rate=value)
        results.add("1 GiB ingest", "dataplaned", rate=value, cpu=1.5, client_cpu=0.5, peak_mib=60)
        results.add("1 GiB ingest", "containerd", rate=value / 4, cpu=6, peak_mib=50)
    results.add("4 KiB objects, stat, 8", "dataplaned", rate=50_000, cpu=2e-5, peak_mib=70)
    results.add("4 KiB objects, stat, 8", "<echo>", rate=60_000, cpu=1e-5, peak_mib=70)
    results.skipped["nginx"] = "nginx is not installed"
    return results


def test_medians_are_what_counts(results):
    assert results.median("sha256", "limit") == 2e9
    assert results.median("1 GiB ingest", "containerd", "cpu") == 6
    assert results.median("1 GiB ingest", "nginx") is None
    assert results.median("no such row", "dataplaned") is None


def test_what_was_wanted_is_judged_by_ratios_of_medians(results):
    judged = {text: (figure, limit) for text, figure, limit, _ in results.judged()}
    assert len(judged) == len(WANTED) + 2
    assert judged["ingest 1 GiB, of SHA-256, one thread"] == (1.0, 0.6)
    assert judged["ingest 1 GiB, of containerd"] == (4.0, 3)
    assert judged["serve 1 GiB, of containerd"] == (None, 2)
    assert judged["CPU seconds of the daemon for a GiB of ingest"] == (1.5, MOST_CPU_S)
    assert judged["MiB of the daemon's memory, the most in any row"] == (70, 150)


def test_tables_have_every_figure_and_gaps_where_there_is_none(results):
    text = results.to_markdown()
    assert "| ingest 1 GiB, of containerd | 4.00 | at least 3 | yes |" in text
    assert "| serve 1 GiB, of sendfile | - | at least 0.5 |  |" in text
    assert "| sha256 | 2.00 GB/s |" in text
    assert "| 1 GiB ingest | 2.00 GB/s | 0.50 GB/s | - |" in text
    assert "| 4 KiB objects, stat, 8 | 20 | - | 10 |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_figures_can_be_read_again(results):
    read = json.loads(results.to_json())
    assert read["rows"]["sha256"]["limit"]["rate"] == [1e9, 3e9, 2e9]
    assert read["skipped"] == {"nginx": "nginx is not installed"}
    assert len(read["judged"]) == len(WANTED) + 2


def test_a_picture_has_a_bar_for_every_figure(results):
    picture = bars(results, "A & B", ["1 GiB ingest", "4 KiB objects, stat, 8", "no such row"])
    root = ET.fromstring(picture)
    shapes = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(shapes) == 1 + 4
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "A & B" in texts
    assert "<echo>, 60,000/s" in texts
    widths = [float(shape.get("width")) for shape in shapes[1:3]]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.1)
