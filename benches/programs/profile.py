"""Where `callsight serve` spends processor time per frame while it drains a stream. `./dev profile` calls this:

    profile.py CALLSIGHT [FRAMES [MEETING_SIZE]]

Starts a nats-server on the loopback interface, fills a stream with simulated frames, and has `perf` sample the
exporter until all of them are folded. Each sample counts for the first of PARTS that its stack contains.
"""

import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

PARTS = [
    ("message freed", r"drop_in_place.*(async_nats::message::Message|HeaderMap)"),
    ("rows of joins and leaves", r"DetailStore::open|drop_in_place.*Row|Row as .*Drop|Population|Meetings::"),
    ("decode", r"Frame::decode|frame::quick"),
    ("fold", r"fold::Fold"),
    ("delivery, subject, counts", r"intake::Intake"),
    ("messages from the client's queue", r"pull::Stream|ReadyChunks"),
    ("socket", r"poll_read_priv|poll_write"),
    ("client: parsing, headers, queues", r"async_nats"),
    ("the consumer's loop, acknowledgements", r"consume::"),
]
OTHER = "scheduling and all else"
DEADLINE = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def ready(port):
    """Whether the exporter has folded everything. A scrape would tell too, but cost more, and be measured."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def stacks(data):
    """Each sample's stack as one text, the innermost function first."""
    command = ["perf", "script", "-i", data, "--comm", "tokio-rt-worker", "-F", "ip,sym"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [stack for stack in output.split("\n\n") if stack.strip()]


def main():
    callsight, *numbers = sys.argv[1:]
    frames = int(numbers[0]) if numbers else 300_000
    parties = numbers[1] if len(numbers) > 1 else "10"
    port, listen = free_port(), free_port()
    url = f"nats://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, running(
        "nats-server", "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", folder
    ):
        subprocess.run(
            [callsight, "simulate", "--nats-url", url, "--region", "us", "--create", "--sessions", "2000"]
            + ["--meeting-size", parties, "--frames", str(frames), "--rate", "1000000", "--log-level", "warn"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        data = f"{folder}/perf.data"
        with running(
            *["perf", "record", "-q", "-F", "499", "--call-graph", "dwarf,4096", "-o", data, callsight, "serve"],
            *["--region", "us", "--create", "--nats-url", url, "--listen", f"127.0.0.1:{listen}"],
            *["--max-series", "10000000", "--max-sessions", "1000000", "--idle-timeout", "1h"],
        ):
            began = time.monotonic()
            while not ready(listen):
                if time.monotonic() - began > DEADLINE:
                    sys.exit("profile: the stream was not drained in time")
                time.sleep(0.1)
        counts = {name: 0 for name, _ in PARTS} | {OTHER: 0}
        samples = stacks(data)
        for stack in samples:
            counts[next((name for name, part in PARTS if re.search(part, stack)), OTHER)] += 1
    each = len(samples) / 499 / frames * 1e6
    print(f"{frames} frames of {parties} parties: {each:.1f} µs of processor time each, {len(samples)} samples")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        share = count / len(samples)
        print(f"  {name:<40} {100 * share:5.1f} %  {share * each:5.2f} µs")


main()
