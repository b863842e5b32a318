"""Session Drill-down: one meeting, session by session and pair by pair."""

from parts import (
    AGE,
    BUFFER,
    BYTE_RATE,
    COUNT,
    DEGRADED,
    FPS,
    MADE_UP_SHARE,
    MEETING,
    PER_SECOND,
    REACHES,
    REGION,
    RTT,
    SESSION,
    STATE,
    Page,
    steps,
)
from queries import PLACE, NOT_NORMAL, rate, slow, made_up


def make():
    page = Page(
        "callsight-session",
        "Session Drill-down",
        "One meeting, session by session: what each measured, whom it could hear and see. Pairs need --detail pair.",
        [REGION, MEETING, SESSION],
    )
    mine = PLACE + ',meeting_id=~"$meeting",session_id=~"$session"'
    page.stat(
        "Sessions",
        "Live sessions that are selected.",
        COUNT,
        f"count(videocall_session_last_seen_age_seconds{{{mine}}})",
    )
    page.stat(
        "RTT, worst",
        "The longest round trip among the selected sessions.",
        RTT,
        f"max(videocall_session_rtt_seconds{{{mine}}})",
    )
    page.stat(
        "Last heard, worst",
        "How long the most silent of them has sent no frame.",
        AGE,
        f"max(videocall_session_last_seen_age_seconds{{{mine}}})",
    )
    page.stat(
        "Unheard pairs",
        "Pairs in which the session can't hear the peer, muted or not.",
        DEGRADED,
        f"count(videocall_pair_can_listen{{{mine}}} == 0) or vector(0)",
    )
    page.stat(
        "Made-up audio",
        "Of all that they hear.",
        MADE_UP_SHARE,
        made_up("", mine, "videocall_pair_audio"),
    )
    page.stat(
        "Freezes a minute",
        "Of all that they see.",
        {"unit": "short", "thresholds": steps(1, 5)},
        f"60 * sum({rate('videocall_pair_video_freezes_total', mine)})",
    )
    page.row("The sessions")
    page.graph(
        "RTT",
        "Of each session, to its server. One alone: that person's line.",
        RTT,
        [
            (
                f"max by (session_id, peer_id, server_type, server_url) (videocall_session_rtt_seconds{{{mine}}})",
                "{{peer_id}} {{server_type}} {{server_url}}",
            )
        ],
    )
    page.graph(
        "Time since last heard",
        "A saw's teeth are the frames' interval. A line that rises is a client that is gone.",
        AGE,
        [
            (
                f"max by (session_id, peer_id) (videocall_session_last_seen_age_seconds{{{mine}}})",
                "{{peer_id}} {{session_id}}",
            )
        ],
    )
    page.states(
        "Microphones",
        "Whose own microphone was on.",
        STATE,
        f"max by (session_id, peer_id) (videocall_session_audio_enabled{{{mine}}})",
        "{{peer_id}} {{session_id}}",
    )
    page.states(
        "Cameras",
        "Whose own camera was on.",
        STATE,
        f"max by (session_id, peer_id) (videocall_session_video_enabled{{{mine}}})",
        "{{peer_id}} {{session_id}}",
    )
    page.row("Whom they hear and see: each session, and each peer in it")
    pair = "{{session_id}} ← {{peer_id}}"
    by_pair = "by (session_id, peer_id)"
    page.states(
        "Can hear",
        "Red while the session could not hear the peer: fine if the peer's microphone was off.",
        REACHES,
        f"min {by_pair} (videocall_pair_can_listen{{{mine}}})",
        pair,
    )
    page.states(
        "Can see",
        "Red while the session could not see the peer: fine if the peer's camera was off.",
        REACHES,
        f"min {by_pair} (videocall_pair_can_see{{{mine}}})",
        pair,
    )
    page.graph(
        "Made-up audio",
        "Share of what the session played of the peer. The same peer for all: the peer's line.",
        MADE_UP_SHARE,
        [(made_up("session_id, peer_id", mine, "videocall_pair_audio"), pair)],
    )
    page.graph(
        "NetEQ's decisions",
        "Everything but normal, over the selected pairs.",
        PER_SECOND,
        [(f"sum by (operation) ({rate('videocall_pair_neteq_operations_total', mine, NOT_NORMAL)})", "{{operation}}")],
    )
    page.graph(
        "Jitter buffer",
        "Depth of the buffer for each peer.",
        BUFFER,
        [(f"max {by_pair} (videocall_pair_audio_buffer_seconds{{{mine}}})", pair)],
    )
    page.graph(
        "Jitter buffer's aim",
        "What NetEQ aims at: it rises with jitter.",
        BUFFER,
        [(f"max {by_pair} (videocall_pair_audio_target_seconds{{{mine}}})", pair)],
    )
    page.graph(
        "Packets awaiting decode",
        "Many: the decoder can't keep up, so the machine is busy.",
        {"unit": "short", "thresholds": steps(10, 25)},
        [(f"max {by_pair} (videocall_pair_audio_packets_awaiting_decode{{{mine}}})", pair)],
    )
    page.graph(
        "Video frames a second",
        "0 is a camera that is off, or nothing that comes.",
        FPS,
        [(f"max {by_pair} (videocall_pair_video_frames_per_second{{{mine}}})", pair)],
    )
    page.graph(
        "Video frames waiting",
        "Many: decoding or showing is slow.",
        {"unit": "short", "thresholds": steps(10, 30)},
        [(f"max {by_pair} (videocall_pair_video_frames_buffered{{{mine}}})", pair)],
    )
    page.graph(
        "Video bit rate",
        "It falls where bandwidth is short.",
        BYTE_RATE,
        [(f"max {by_pair} (videocall_pair_video_bytes_per_second{{{mine}}})", pair)],
    )
    page.graph(
        "Freezes a minute",
        "Of each peer's video.",
        {"unit": "short", "thresholds": steps(1, 5)},
        [(f"60 * sum {by_pair} ({rate('videocall_pair_video_freezes_total', mine)})", pair)],
    )
    return page
