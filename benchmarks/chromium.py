"""A headless Chromium that is driven by the DevTools protocol over a pipe, with none of its domains enabled.

Playwright enables the domain `Network` in each page. The page's process then keeps everything that it read, which
makes hundreds of MB.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD, fcntl
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
WIDTH, HEIGHT = 1440, 900


class Chromium:
    """The browser, as a child of this process."""

    def __init__(self, path: str, profile: str) -> None:
        (self._read, out), (into, self._write) = os.pipe(), os.pipe()
        # Chromium reads 3 and writes 4, which may be pipes of ours.
        high = [fcntl(each, F_DUPFD, 10) for each in (into, out)]
        shell = f'exec "$@" 3<&{high[0]} 4>&{high[1]}'
        flags = [*FLAGS, "--remote-debugging-pipe", f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}"]
        command = ["bash", "-c", shell, "bash", path, *flags]
        self.process = subprocess.Popen(command, pass_fds=high, stderr=subprocess.DEVNULL)
        for each in (into, out, *high):
            os.close(each)
        self._left, self._n = b"", 0

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """What a command gives, once it is done."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._n:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def hang_up(self) -> None:
        """Close the pipes."""
        os.close(self._read)
        os.close(self._write)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            got = os.read(self._read, 2**16)
            if not got:
                raise RuntimeError("Chromium has ended")
            self._left += got
        message, _, self._left = self._left.partition(b"\0")
        return dict(json.loads(message))


class Tab:
    """A page in a browser context, with a script that runs in it before its own."""

    def __init__(self, browser: Chromium, context: str, script: str) -> None:
        self.browser = browser
        self.target = browser.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        self.send("Page.enable")
        self.send("Page.addScriptToEvaluateOnNewDocument", source=script)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command to this page gives."""
        return self.browser.send(method, self._session, **params)

    def js(self, expression: str) -> Any:
        """The value of an expression; of a promise, what it comes to."""
        done = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"].get("description", "it threw no error"))
        return done["result"].get("value")

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Bring an element in sight, and click on this place of it."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{found}.scrollIntoView({{ block: 'nearest' }})")
        left, top, width, height = self.js(
            f"(({{ x, y, width, height }}) => [x, y, width, height])({found}.getClientRects()[0])"
        )
        where = {"x": left + across * width, "y": top + down * height}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **where)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def close(self) -> None:
        """End the page."""
        self.browser.send("Target.closeTarget", targetId=self.target)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A browser with a new profile, closed at the end of the block; raises FileNotFoundError without a Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise FileNotFoundError("no Chromium on the path; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(path, profile)
        try:
            yield browser
        finally:
            browser.process.terminate()
            browser.process.wait(20)
            browser.hang_up()
