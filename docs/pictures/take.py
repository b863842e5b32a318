#!/usr/bin/env python3
"""Takes the pictures of the triage page, or of the page of a call, that the README shows.

    take.py CHROMIUM triage|call URL FOLDER

Opens the page in a Chromium without a window, waits until it shows trouble (of a call, after it has started one and
made Ana's upload bad), and takes it in light and dark. Python's standard library is enough: the DevTools protocol is
spoken over a pair of pipes.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time

SIZE = (1366, 768)
PATIENCE = 240
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-breakpad --disable-component-update --disable-dev-shm-usage --disable-sync --remote-debugging-pipe"
).split()
BAD = """document.body.dataset.state === 'bad' && document.body.dataset.fresh === 'live'
    && document.querySelector('#lasting').textContent.match(/^for [3-9]. s/)
    && document.querySelectorAll('#worst tbody button').length > 5"""
PEOPLE = "document.querySelectorAll('article').length === 2"
CALM = """[...document.querySelectorAll('.status')].every(status => status.textContent === 'in the call')
    && performance.now() > 30000 && !document.querySelector('#alerts [data-state]')"""
LOSE = """{
    const slider = document.querySelector('#ana [data-path="up loss"]');
    slider.value = 20;
    slider.dispatchEvent(new Event('input'));
}"""
ALARMED = """[...document.querySelectorAll('#alerts [data-state]')].map(alert => alert.textContent)
    .join().startsWith('CallUplinkDegradedfiring')"""


class Browser:
    def __init__(self, chromium, profile):
        commands, self.commands = os.pipe()
        self.messages, messages = os.pipe()
        # The protocol is spoken on the descriptors 3 and 4.
        shell = f'exec "$@" 3<&{commands} 4>&{messages}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", chromium, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands, messages),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(messages)
        self.buffer = b""
        self.number = 0
        self.session = None

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                piece = os.read(self.messages, 1 << 20)
                if not piece:
                    sys.exit("chromium ended")
                self.buffer += piece
            raw, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(raw)
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        width, height = SIZE
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression):
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                sys.exit(f"not within {PATIENCE} s; the page says: {self.evaluate('document.body.innerText')}")
            time.sleep(0.5)

    def enter(self, selector):
        """Presses a button with the keyboard: only after that may a page play."""
        self.evaluate(f"document.querySelector('{selector}').focus()")
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def take(self, scheme, path):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        time.sleep(0.3)
        # What is under the last row shows nothing.
        height = self.evaluate("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom) + 12")
        clip = {"x": 0, "y": 0, "width": SIZE[0], "height": min(height, SIZE[1]), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="webp", quality=82, clip=clip)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
        print(f"{path}  {os.path.getsize(path) // 1024} KiB")


def main():
    chromium, what, url, folder = sys.argv[1:]
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(chromium, profile)
        try:
            browser.open(url)
            if what == "call":
                browser.until(PEOPLE)
                browser.enter("#start")
                browser.until(CALM)
                browser.evaluate(LOSE)
                browser.until(ALARMED)
            else:
                browser.until(BAD)
            for scheme in ("light", "dark"):
                browser.take(scheme, f"{folder}/{what}-{scheme}.webp")
        finally:
            os.close(browser.commands)
            browser.process.wait()


main()
