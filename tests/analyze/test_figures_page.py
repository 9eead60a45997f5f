import base64
import hashlib
import re

import plotly.graph_objects as go

from lorascope.analyze.report.document import render_figures

HOSTILE = "</script><b>x"


def test_a_page_of_figures() -> None:
    plot = go.Figure(go.Scatter(x=[1], y=[2], name=HOSTILE), layout={"height": 300})
    page = render_figures(f"T {HOSTILE}", f"s {HOSTILE}", [("one", plot), (f"two {HOSTILE}", f"why {HOSTILE}")])
    assert "<title>T &lt;/script&gt;&lt;b&gt;x</title>" in page
    assert page.count('class="plot"') == 1
    assert "<h2>two &lt;/script&gt;&lt;b&gt;x</h2><p>why &lt;/script&gt;&lt;b&gt;x</p>" in page
    assert "<b>x" not in page
    assert 'style="height:300px"' in page


def test_only_its_own_scripts_may_run() -> None:
    page = render_figures("t", "s", [])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in policy[1]
    assert len(scripts) == 3
