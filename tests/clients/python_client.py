"""A client in another language, written from docs/frame.md alone.

Publishes the named frames of one session that sees one remote peer, waits for each acknowledgement, and prints
how many there were. Every value follows from the frame's number, so that a test knows what to expect:

    rtt_ms             40 + seq
    buffer_ms          60 + seq
    total_samples      48000 * seq
    concealed_samples  480 * seq
    normal             98 * seq
    expand             2 * seq
    packets_lost       0
    fps                30

Needs nats-py and msgpack.
"""

import argparse
import asyncio
import random
import sys
import time

import msgpack
import nats
from nats.errors import ConnectionClosedError, TimeoutError
from nats.js.errors import APIError, NoStreamResponseError

FIRST_WAIT = 0.1
LONGEST_WAIT = 2.0

# The stream is busy with a copy of the frame, or with too many frames.
BUSY = (10158, 10167)


def frame(args, seq):
    content = {
        "v": 1,
        "meeting_id": args.meeting,
        "session_id": args.session,
        "peer_id": args.peer,
        "seq": seq,
        "sent_at_ms": int(time.time() * 1000),
        "server": {
            "url": "https://relay-1.example:4433/join?token=not-for-labels",
            "type": "webtransport",
            "rtt_ms": 40 + seq,
        },
        "audio_enabled": True,
        "video_enabled": False,
        "tab_visible": True,
        "peers": [
            {
                "peer_id": f"{args.peer}-remote",
                "can_listen": True,
                "can_see": True,
                "audio_enabled": True,
                "video_enabled": True,
                "audio": {
                    "buffer_ms": 60.0 + seq,
                    "packets_received": 50 * seq,
                    "packets_lost": 0,
                    "total_samples": 48000 * seq,
                    "concealed_samples": 480 * seq,
                    "neteq": {"normal": 98 * seq, "expand": 2 * seq},
                },
                "video": {"fps": 30, "freeze_count": 0},
            }
        ],
    }
    if args.ended and seq == args.frames:
        content["ended"] = True
    return content


def passes(error):
    """Whether the frame may be stored later; other errors of the stream below 500 are the frame's own."""
    return not isinstance(error, APIError) or error.code >= 500 or error.err_code in BUSY


def partition(meeting):
    """The last token of the subject: 32-bit FNV-1a of the meeting's id, modulo 64."""
    value = 0x811C9DC5
    for byte in meeting.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"m{value % 64}"


async def publish(jetstream, subject, content, deadline):
    """Sends until the frame is stored: under the same message id, so that it is stored once."""
    payload = msgpack.packb(content)
    headers = {"Nats-Msg-Id": f"{content['session_id']}:{content['seq']}"}
    wait = FIRST_WAIT
    while True:
        try:
            return await jetstream.publish(subject, payload, timeout=5, headers=headers)
        except (APIError, NoStreamResponseError, TimeoutError) as error:
            if not passes(error) or time.monotonic() > deadline:
                raise
            print(f"frame {content['seq']} again: {error!r} {error}", file=sys.stderr)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT)


async def run(args):
    subject = f"health.diagnostics.{args.region}.relay.python-1.{partition(args.meeting)}"
    deadline = time.monotonic() + args.give_up_after
    connection = await nats.connect(args.url.split(","), ping_interval=10, max_outstanding_pings=2)
    acknowledged = 0
    try:
        jetstream = connection.jetstream()
        for seq in range(1, args.frames + 1):
            await publish(jetstream, subject, frame(args, seq), deadline)
            acknowledged += 1
            if seq < args.frames:
                await asyncio.sleep(args.interval)
    except (APIError, NoStreamResponseError, TimeoutError, ConnectionClosedError) as error:
        print(f"gave up: {error!r}", file=sys.stderr)
    finally:
        await connection.close()
    print(f"acknowledged {acknowledged} of {args.frames}")
    return 0 if acknowledged == args.frames else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="all NATS servers of the region, such as nats://us-1:4222,nats://us-2:4222")
    parser.add_argument("region")
    parser.add_argument("meeting")
    parser.add_argument("session")
    parser.add_argument("peer")
    parser.add_argument("frames", type=int)
    parser.add_argument("--ended", action="store_true", help="say with the last frame that the session ended")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds between frames")
    parser.add_argument("--give-up-after", type=float, default=30.0, help="seconds until retries end")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
