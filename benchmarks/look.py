"""Pictures of a page in headless Chromium, at desktop and phone width, light and dark, and in print, to be looked at.

    python benchmarks/look.py runs/demo/report.html --out runs/look

Chromium has no network here, so a picture also shows that the page needs none.
"""

import argparse
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZES = {"desktop": (1440, 6400), "phone": (390, 12000)}
SCHEMES = {"light": 1, "dark": 0}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--virtual-time-budget=8000",
    # Every look-up fails, that of a proxy included.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-proxy-server",
)


def main() -> None:
    """Render one page and name the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/look"))
    arguments = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        parser.error("no Chromium on the path; on Debian: apt-get install chromium")
    if not arguments.page.is_file():
        parser.error(f"{str(arguments.page)!r} doesn't exist; name a page that `lorascope report` wrote")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for (name, (width, height)), (scheme, number) in itertools.product(SIZES.items(), SCHEMES.items()):
        picture = arguments.out / f"{name}-{scheme}.png"
        wanted = f"--blink-settings=preferredColorScheme={number}"
        with framed(arguments.page, width, height) as frame:
            size = f"--window-size={max(width, 500)},{height}"
            render(browser, frame, f"--screenshot={picture.resolve()}", size, wanted)
        print(picture)
    printed = arguments.out / "print.pdf"
    render(browser, arguments.page, f"--print-to-pdf={printed.resolve()}", "--no-pdf-header-footer")
    print(printed)


@contextmanager
def framed(page: Path, width: int, height: int) -> Iterator[Path]:
    """A page that shows another one at a given width; Chromium's own window is never narrower than 500."""
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        style = f"border:0;width:{width}px;height:{height}px"
        frame.write_text(f'<body style="margin:0"><iframe src="{page.resolve().as_uri()}" style="{style}"></iframe>')
        yield frame


def render(browser: str, page: Path, *flags: str) -> None:
    """Run Chromium once over the page, in a profile of its own."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=180)


if __name__ == "__main__":
    main()
