import base64
import hashlib
import logging
import re
import sys

import plotly.graph_objects as go
import pytest
from choreographer.browsers.chromium import Chromium

from lorascope.analyze.report import document as module
from lorascope.analyze.report.document import document
from lorascope.analyze.report.markup import NEEDS_SCRIPT, figure

HOSTILE = "</script><b>x"
PLOT = go.Figure(go.Scatter(x=[1], y=[2], name=HOSTILE), layout={"height": 300, "title": {"text": "a &lt;title"}})


def page_of(*plots: go.Figure) -> str:
    return document("t", "s", "".join(figure(f"figure-{place}", plot, "") for place, plot in enumerate(plots)))


def test_a_page_of_figures() -> None:
    page = document(f"T {HOSTILE}", f"s {HOSTILE}", figure("figure-0", PLOT, ""))
    assert "<title>T &lt;/script&gt;&lt;b&gt;x</title>" in page
    assert page.count('class="plot"') == 1
    assert "<b>x" not in page
    assert 'style="height:300px"' in page


def test_only_its_own_scripts_may_run() -> None:
    page = page_of()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in policy[1]
    assert len(scripts) == 2


def shown_pictures(page: str) -> list[str]:
    """SVG of each picture that a viewer without JavaScript sees."""
    encoded = re.findall(r'<noscript><img src="data:image/svg\+xml;base64,([^"]*)" alt="[^"]+"></noscript></div>', page)
    return [base64.b64decode(picture).decode() for picture in encoded]


@pytest.fixture
def pictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaleido is there, and any Chrome may be found."""
    monkeypatch.delitem(sys.modules, "kaleido")
    monkeypatch.delenv("BROWSER_PATH")


@pytest.mark.usefixtures("pictured")
def test_figures_are_pictures_where_scripts_do_not_run() -> None:
    if Chromium.find_browser(skip_local=False) is None:
        pytest.skip("no Chrome")
    page = page_of(PLOT, go.Figure(PLOT).update_layout(height=410))
    first, second = shown_pictures(page)
    assert 'width="660" height="300"' in first
    assert "a &#60;title" in first
    assert 'width="660" height="410"' in second
    assert NEEDS_SCRIPT not in page
    assert page.count('class="plot"') == page.count('type="application/json"') == 2


def test_a_picture_of_thousands_of_points_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {"figure-0": b"<svg/>", "figure-1": b" " * (module.MOST_BYTES + 1)}
    monkeypatch.setattr(module, "draw", lambda figures, kind, width: drawn)
    assert shown_pictures(page_of(PLOT, PLOT)) == ["<svg/>"]


@pytest.mark.usefixtures("pictured")
@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ("kaleido", ""),
        ("a Chrome", "No browser found at BROWSER_PATH='/no/chrome'."),
        ("a Chrome that works", "figures without pictures: "),
        ("time", "timed out after"),
    ],
)
def test_without_plotly_s_exporter_figures_say_what_they_need(
    lacking: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if lacking == "kaleido":
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    elif lacking == "time":
        monkeypatch.setattr(module, "START_SECONDS", 0.0)
        monkeypatch.setattr(module, "FIGURE_SECONDS", 0.01)
    else:
        monkeypatch.setenv("BROWSER_PATH", "/no/chrome" if lacking == "a Chrome" else "/bin/false")
        monkeypatch.setattr(module, "START_SECONDS", 5.0)  # at times kaleido waits for a browser that is gone
    with caplog.at_level(logging.INFO, "lorascope"):
        page = page_of(PLOT)
    assert f">{NEEDS_SCRIPT}</div>" in page
    assert shown_pictures(page) == []
    assert reason in caplog.text
    assert len(caplog.records) == bool(reason)
