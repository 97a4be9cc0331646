"""A headless Chromium, driven over its DevTools protocol by two pipes: no port, no driver program, no download.

Sources: chromium's --remote-debugging-pipe (JSON messages with a NUL byte behind each, commands to descriptor 3,
answers from descriptor 4) and https://chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE = 30.0  # seconds for an answer: a browser that starts on a busy machine takes a few
SWITCHES = (
    "--headless",
    "--no-sandbox",  # which cannot be had as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # it asks nobody for anything
    "--remote-debugging-pipe",
)


def find_program() -> str | None:
    """Return the browser of this machine."""
    return next((found for program in PROGRAMS if (found := shutil.which(program))), None)


class Browser:
    """A running browser with one page. `complaints`: what its console and its page said of errors and warnings."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer. Raises AssertionError when it is refused."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, url: str) -> None:
        """Load a page and wait until it is loaded."""
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._next()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, " ": 32, "Tab": 9, "Enter": 13}
        named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        text = {" ": " ", "Enter": "\r"}.get(key)
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({found}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def show(self, width: int, height: int, **media: str) -> None:
        """Set the size of the page, and what it prefers: `prefers_color_scheme="dark"`."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def wait_until(self, expression: str) -> None:
        """Wait until an expression is true. Raises AssertionError when it does not become so."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            self.evaluate("new Promise(requestAnimationFrame)")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], PATIENCE)
            assert ready, f"the browser said nothing for {PATIENCE} s"
            read = os.read(self._answers, 1 << 16)
            assert read, "the browser ended"
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextmanager
def start(program: str, home: Path, switches: Sequence[str] = ()) -> Iterator[Browser]:
    """Run a browser that keeps all it writes in a directory."""
    from_here, to_here = os.pipe(), os.pipe()
    # bash: other shells know descriptors of one digit only
    redirect = f'exec "$@" 3<&{from_here[0]} 4>&{to_here[1]}'
    command = ["bash", "-c", redirect, "bash", program, *SWITCHES, f"--user-data-dir={home}", *switches]
    log = (home / "browser.log").open("w")
    environment = {**os.environ, "HOME": str(home)}
    inherited = (from_here[0], to_here[1])
    running = subprocess.Popen(command, pass_fds=inherited, stdout=log, stderr=log, env=environment)
    for descriptor in inherited:
        os.close(descriptor)
    try:
        yield Browser(from_here[1], to_here[0])
    finally:
        os.close(from_here[1])  # it ends when nobody can command it any more
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        os.close(to_here[0])
        log.close()
