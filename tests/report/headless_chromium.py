"""A page in the installed Chromium, driven over its DevTools pipe: no driver, no socket, no download.

Commands and events are JSON with a zero byte behind (https://chromedevtools.github.io/devtools-protocol/): file
descriptor 3 of the browser reads them, 4 writes them.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--mute-audio", "--hide-scrollbars",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
"""Graphics in software: the machine of the tests has no card."""


class Page:
    """One page; use it in a `with` statement.

    Attributes:
        requests: Address of everything that the page asked for, whether it was allowed or not.
        complaints: Errors, failed requests and violations of the page's policy, as the console tells them.
    """

    def __init__(self, profile: Path, *, width: int = 1200, height: int = 900, patience_s: float = 90.0) -> None:
        """Keep the folder of the browser's profile; nothing is started yet."""
        self.profile, self.size, self.patience_s = profile, (width, height), patience_s
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number, self._buffer, self._session = 0, b"", ""

    def __enter__(self) -> Self:
        """Start the browser and open an empty page."""
        read_3, self._to = os.pipe()
        self._from, write_4 = os.pipe()
        # bash puts the pipes where the browser wants them; they are open here under other numbers.
        start = f'exec "$0" "$@" 3<&{read_3} 4>&{write_4}'
        size = "--window-size={},{}".format(*self.size)
        command = ["bash", "-c", start, CHROMIUM, *FLAGS, size, f"--user-data-dir={self.profile}", "about:blank"]
        self._browser = subprocess.Popen(
            command, pass_fds=(read_3, write_4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_3)
        os.close(write_4)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        """End the browser."""
        self._session = ""
        try:
            self._call("Browser.close")
            self._browser.wait(10)
        except (OSError, subprocess.TimeoutExpired, TimeoutError):
            self._browser.kill()
            self._browser.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, path: Path) -> None:
        """Open a file."""
        self._call("Page.navigate", url=path.resolve().as_uri())

    def ask(self, expression: str) -> Any:
        """Give the value of an expression of JavaScript."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Ask until the answer is true."""
        end = time.monotonic() + self.patience_s
        while not (answer := self.ask(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} did not come true; the page says {self.complaints}")
            time.sleep(0.1)
        return answer

    def picture(self, path: Path | None = None, *, whole: bool = False) -> bytes:
        """Take a PNG picture of what is seen, or of the whole page."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        data = base64.b64decode(found["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and read until its answer, noting events on the way."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + self.patience_s
        while True:
            message = self._read(end)
            if message.get("id") == self._number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message.get("method", ""), message.get("params", {}))

    def _read(self, end: float) -> dict[str, Any]:
        """Read one message."""
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self._from, 1 << 16)
            if not piece:
                raise TimeoutError("the browser has gone")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, method: str, event: dict[str, Any]) -> None:
        """Keep what tells of requests and mistakes."""
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.loadingFailed":
            self.complaints.append(f"failed: {event.get('blockedReason') or event['errorText']}")
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.complaints.append(event["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(event["exceptionDetails"].get("exception", event["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one)) for one in event["args"]))
