from html.parser import HTMLParser
from pathlib import Path

from lorascope.stores import open_run


def test_a_notebook_shows_what_a_run_is(many_rows: Path, unfinished: Path) -> None:
    for path, state in ((many_rows, "finished"), (unfinished, "unfinished: ")):
        run = open_run(path)
        run.attributes["provenance"] = {"settings": {"model": "<script>model</script>"}}
        page = run._repr_html_()
        assert "<script>" not in page
        for text in (state, "d: 5 samples", "2500; stream adapted", "4: 2 up_proj, 2 down_proj", "rank 2 to 4", " MB"):
            assert text in page
        parser = HTMLParser()
        parser.feed(page)
        parser.close()
