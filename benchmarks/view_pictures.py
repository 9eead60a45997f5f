"""Pictures of docs/view.md: `python benchmarks/view_pictures.py RUN OTHER`, two runs over the same samples.

It serves both as `lorascope view` does, and looks at them with a headless Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from lorascope.analyze import view

FOLDER = Path("docs/view")
DESKTOP, TALL, PHONE = (1440, 900), (1440, 1560), (390, 844)
TOKEN, COMPONENT = "sample=1&token=38", "component=model.layers.13.self_attn.q_proj"
PICTURES = {
    "sample": (DESKTOP, "light", f"{TOKEN}&{COMPONENT}"),
    "cell": (TALL, "light", f"{TOKEN}&{COMPONENT}"),
    "compare": (DESKTOP, "dark", f"panes=0,1&{TOKEN}"),
    "phone": (PHONE, "dark", TOKEN),
}
"""Name -> size, colour scheme, and view in the address."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, type=Path, metavar="run")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        parser.error("no Chromium on the path; on Debian: apt-get install chromium")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with view(arguments.runs) as shown, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, ((width, height), scheme, address) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(f"{shown.url}#{address}")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(500)
            panel = page.locator("section.cell").first
            (panel if name == "cell" else page).screenshot(path=arguments.out / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
