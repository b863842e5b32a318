"""Session Drill-down: one meeting, session by session and pair by pair."""

from parts import (
    AGE,
    BUFFER,
    BYTE_RATE,
    COUNT,
    DEGRADED,
    FPS,
    CONCEALED_SHARE,
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
from queries import PLACE, NOT_NORMAL, rate, slow, concealed


def make():
    page = Page(
        "callsight-session",
        "Session Drill-down",
        "One meeting, session by session: measurements, and who hears and sees whom. Pairs need --detail pair.",
        [REGION, MEETING, SESSION],
    )
    mine = PLACE + ',meeting_id=~"$meeting",session_id=~"$session"'
    page.stat(
        "Sessions",
        "Selected live sessions.",
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
        "Last frame, worst",
        "The longest time since a selected session's last frame.",
        AGE,
        f"max(videocall_session_last_seen_age_seconds{{{mine}}})",
    )
    page.stat(
        "Unheard pairs",
        "Pairs in which the session can't hear the peer, whether muted or not.",
        DEGRADED,
        f"count(videocall_pair_can_listen{{{mine}}} == 0) or vector(0)",
    )
    page.stat(
        "Concealed audio",
        "Share of all audio that the selected sessions played.",
        CONCEALED_SHARE,
        concealed("", mine, "videocall_pair_audio"),
    )
    page.stat(
        "Freezes per minute",
        "Of all video that the selected sessions see.",
        {"unit": "short", "thresholds": steps(1, 5)},
        f"60 * sum({rate('videocall_pair_video_freezes_total', mine)})",
    )
    page.row("The sessions")
    page.graph(
        "RTT",
        "Each session to its server. One alone: that participant's connection.",
        RTT,
        [
            (
                f"max by (session_id, peer_id, server_type, server_url) (videocall_session_rtt_seconds{{{mine}}})",
                "{{peer_id}} {{server_type}} {{server_url}}",
            )
        ],
    )
    page.graph(
        "Time since last frame",
        "The sawtooth is the frame interval. A rising line is a client that is gone.",
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
        "When each session's own microphone was on.",
        STATE,
        f"max by (session_id, peer_id) (videocall_session_audio_enabled{{{mine}}})",
        "{{peer_id}} {{session_id}}",
    )
    page.states(
        "Cameras",
        "When each session's own camera was on.",
        STATE,
        f"max by (session_id, peer_id) (videocall_session_video_enabled{{{mine}}})",
        "{{peer_id}} {{session_id}}",
    )
    page.row("Who hears and sees whom: each session, and each of its peers")
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
        "Concealed audio",
        "Share of the peer's audio that was concealed. The same peer for all: that peer's connection.",
        CONCEALED_SHARE,
        [(concealed("session_id, peer_id", mine, "videocall_pair_audio"), pair)],
    )
    page.graph(
        "NetEQ's decisions",
        "All operations but normal, over the selected pairs.",
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
        "Jitter buffer target",
        "The depth that NetEQ aims at; it rises with jitter.",
        BUFFER,
        [(f"max {by_pair} (videocall_pair_audio_target_seconds{{{mine}}})", pair)],
    )
    page.graph(
        "Packets awaiting decode",
        "Many: the decoder can't keep up, the machine is busy.",
        {"unit": "short", "thresholds": steps(10, 25)},
        [(f"max {by_pair} (videocall_pair_audio_packets_awaiting_decode{{{mine}}})", pair)],
    )
    page.graph(
        "Video frames per second",
        "0: the camera is off, or no video arrives.",
        FPS,
        [(f"max {by_pair} (videocall_pair_video_frames_per_second{{{mine}}})", pair)],
    )
    page.graph(
        "Video frames waiting",
        "Many: decoding or rendering is slow.",
        {"unit": "short", "thresholds": steps(10, 30)},
        [(f"max {by_pair} (videocall_pair_video_frames_buffered{{{mine}}})", pair)],
    )
    page.graph(
        "Video bit rate",
        "It falls when bandwidth is short.",
        BYTE_RATE,
        [(f"max {by_pair} (videocall_pair_video_bytes_per_second{{{mine}}})", pair)],
    )
    page.graph(
        "Freezes per minute",
        "Of each peer's video.",
        {"unit": "short", "thresholds": steps(1, 5)},
        [(f"60 * sum {by_pair} ({rate('videocall_pair_video_freezes_total', mine)})", pair)],
    )
    return page
