"""Headless Chromium over its own debugging protocol, for tests that look at a page as people do."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

EXECUTABLE = shutil.which("chromium") or shutil.which("google-chrome")
_START_SECONDS = 60.0
_KEYS = {"Tab": 9, "Enter": 13, " ": 32}


class Page:
    """An open page."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._sent = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol; notes what the browser complains of meanwhile."""
        self._sent += 1
        self._connection.send(
            json.dumps({"id": self._sent, "method": method, "params": parameters})
        )
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == self._sent:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.complaints.append(json.dumps(message["params"]))

    def run(self, expression: str) -> Any:
        """Evaluates JavaScript; returns its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_until(self, expression: str, seconds: float = 30.0) -> None:
        """Waits until JavaScript gives something true."""
        deadline = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        """Opens an address and waits for the document."""
        self.call("Page.navigate", url=url)
        self.wait_until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def prefer(self, media: str = "", **features: str) -> None:
        """Sets what the reader prefers, such as `prefers_color_scheme`, and `media="print"`."""
        wanted = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=wanted)

    def size(self, width: int, height: int) -> None:
        """Sets the window's size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def press(self, key: str) -> None:
        """Presses a key as a keyboard does."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code="Space" if key == " " else key,
                windowsVirtualKeyCode=_KEYS[key],
                text=text if kind == "keyDown" else "",
            )

    def screenshot(self, path: Path) -> None:
        """Writes the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium() -> Iterator[Page]:
    """Starts Chromium without a window; yields its page."""
    assert EXECUTABLE is not None
    # What Chromium has started may write a little longer than it lives itself.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            *(EXECUTABLE, "--headless=new", "--disable-gpu", "--no-first-run", "--no-sandbox"),
            *(f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = _debugger(Path(profile) / "DevToolsActivePort")
            with connect(address, max_size=None, compression=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait(30)


def _debugger(told: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while not (told.exists() and told.read_text().count("\n")):
        assert time.monotonic() < deadline, "chromium did not start"
        time.sleep(0.05)
    port = told.read_text().split()[0]
    targets = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
    return next(str(t["webSocketDebuggerUrl"]) for t in targets if t["type"] == "page")
