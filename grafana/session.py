"""Session Drill-down: one meeting, session by session and pair by pair, in both directions."""

from parts import (
    AGE,
    BUFFER,
    BYTE_RATE,
    CONCEALED_SHARE,
    COUNT,
    DEGRADED,
    FPS,
    HEIGHT,
    LOSS_SHARE,
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
from queries import (
    NOT_FROZEN,
    NOT_HIGH,
    NOT_LOST,
    NOT_NORMAL,
    NOT_SENT,
    PLACE,
    concealed,
    lost,
    lost_share,
    otherwise,
    rate,
)

NO_NETEQ = "no client reports NetEQ operations"
FREEZES = {"unit": "short", "thresholds": steps(1, 5)}


def make():
    page = Page(
        "callsight-session",
        "Session Drill-down",
        "One meeting: what each session sends, what it receives of each peer, and what the others receive of it."
        " Pairs need --detail pair.",
        [REGION, MEETING, SESSION],
    )
    meeting = PLACE + ',meeting_id=~"$meeting"'
    mine = meeting + ',session_id=~"$session"'
    audio = "videocall_pair_audio"

    def each(metric, by="session_id, peer_id"):
        return f"max by ({by}) ({metric}{{{mine}}})"

    def sent(what):
        return otherwise(each(f"videocall_session_send_{what}"), "peer_id", NOT_SENT)

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
        "Lost of what is sent, worst",
        "The highest share of the packets of a selected session that did not reach the far end.",
        LOSS_SHARE,
        f"max(videocall_session_send_loss_ratio{{{mine}}})",
        nothing=NOT_SENT,
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
        concealed("", mine, audio),
    )
    page.stat(
        "Freezes per minute",
        "Of all video that the selected sessions see.",
        FREEZES,
        f"60 * sum({rate('videocall_pair_video_freezes_total', mine)})",
        nothing=NOT_FROZEN,
    )
    page.row("The sessions")
    page.table(
        "Who uses what",
        "Release, platform and server of each session; the value is the time since its last frame.",
        AGE,
        each(
            "videocall_session_last_seen_age_seconds",
            "region, meeting_id, session_id, peer_id, app, platform, server_type, server_url",
        ),
        ["peer_id", "app", "platform", "server_type", "server_url", "session_id", "meeting_id", "region"],
        width=24,
    )
    page.graph(
        "RTT",
        "Each session to its server, and of the media that it sends. One alone: that participant's connection.",
        RTT,
        [
            (each("videocall_session_rtt_seconds"), "{{peer_id}}"),
            (sent("rtt_seconds"), "{{peer_id}} sent media"),
        ],
    )
    page.graph(
        "Time since last frame",
        "The sawtooth is the frame interval. A rising line is a client that is gone.",
        AGE,
        [(each("videocall_session_last_seen_age_seconds"), "{{peer_id}} {{session_id}}")],
    )
    page.states(
        "Microphones",
        "When each session's own microphone was on.",
        STATE,
        each("videocall_session_audio_enabled"),
        "{{peer_id}} {{session_id}}",
    )
    page.states(
        "Cameras",
        "When each session's own camera was on.",
        STATE,
        each("videocall_session_video_enabled"),
        "{{peer_id}} {{session_id}}",
    )
    page.row("What each session sends")
    page.graph(
        "Lost of what is sent",
        "Audio or video, whichever is higher. High: this session's uplink, and all others hear it badly.",
        LOSS_SHARE,
        [(sent("loss_ratio"), "{{peer_id}}")],
    )
    page.graph(
        "Sent bit rate",
        "With the bandwidth that the client estimates to have. Both low: its uplink is narrow.",
        BYTE_RATE,
        [
            (sent("bytes_per_second"), "{{peer_id}}"),
            (each("videocall_session_available_outgoing_bytes_per_second"), "{{peer_id}} available"),
        ],
    )
    page.graph(
        "Sent frames per second",
        "Of the largest layer. Low with enough bandwidth: the processor is too slow.",
        FPS,
        [(sent("frames_per_second"), "{{peer_id}}")],
    )
    page.graph(
        "Height of sent video",
        "Of the largest layer. It falls when bandwidth or processor limit it.",
        HEIGHT,
        [(sent("frame_height_pixels"), "{{peer_id}}")],
    )
    page.row("What each session receives of each peer")
    pair = "{{session_id}} ← {{peer_id}}"
    page.states(
        "Can hear",
        "Red while the session could not hear the peer: fine if the peer's microphone was off.",
        REACHES,
        each("videocall_pair_can_listen"),
        pair,
    )
    page.states(
        "Can see",
        "Red while the session could not see the peer: fine if the peer's camera was off.",
        REACHES,
        each("videocall_pair_can_see"),
        pair,
    )
    page.graph(
        "Concealed audio",
        "Share of the peer's audio that was concealed. The same peer for all: that peer's connection.",
        CONCEALED_SHARE,
        [(concealed("session_id, peer_id", mine, audio), pair)],
    )
    page.graph(
        "Audio lost",
        "All peers of a session: the way to it. One peer for all: that peer's uplink. None, but concealed: jitter.",
        LOSS_SHARE,
        [(lost("session_id, peer_id", mine, audio), pair)],
    )
    page.graph(
        "Jitter buffer",
        "Its depth for each peer, and the depth that it aims at, which rises with jitter.",
        BUFFER,
        [
            (each("videocall_pair_audio_buffer_seconds"), pair),
            (each("videocall_pair_audio_target_seconds"), f"{pair} target"),
        ],
    )
    page.graph(
        "Video bit rate",
        "It falls when bandwidth is short.",
        BYTE_RATE,
        [(each("videocall_pair_video_bytes_per_second"), pair)],
    )
    page.graph(
        "Video frames per second",
        "0: the camera is off, or no video arrives. A shared screen stands still most of the time.",
        FPS,
        [
            (each("videocall_pair_video_frames_per_second"), pair),
            (
                otherwise(each("videocall_pair_screen_frames_per_second"), "session_id", "no screen is shared"),
                f"{pair} screen",
            ),
        ],
    )
    page.graph(
        "Height of video",
        "Small tiles ask for little.",
        HEIGHT,
        [(otherwise(each("videocall_pair_video_frame_height_pixels"), "peer_id", NOT_HIGH), pair)],
    )
    page.graph(
        "Freezes per minute",
        "Of each peer's video.",
        FREEZES,
        [
            (
                otherwise(
                    f"60 * sum by (session_id, peer_id) ({rate('videocall_pair_video_freezes_total', mine)})",
                    "peer_id",
                    NOT_FROZEN,
                ),
                pair,
            )
        ],
        width=24,
    )
    page.row("What the others of the meeting receive of the selected sessions")
    theirs = "region, meeting_id, session_id, peer_id"
    of_mine = f" and on (region, meeting_id, peer_id) videocall_session_last_seen_age_seconds{{{mine}}}"
    page.states(
        "Heard",
        "Red while somebody could not hear the participant. Red for all: its microphone or its uplink.",
        REACHES,
        f"max by ({theirs}) (videocall_pair_can_listen{{{meeting}}}){of_mine}",
        pair,
    )
    page.graph(
        "Concealed for others",
        "All alike: this participant's uplink. One: that listener's connection.",
        CONCEALED_SHARE,
        [(concealed(theirs, meeting, audio) + of_mine, pair)],
    )
    page.graph(
        "Lost on the way to others",
        "All alike, and lost of what is sent: this participant's uplink.",
        LOSS_SHARE,
        [(otherwise(lost_share(theirs, meeting, audio) + of_mine, "peer_id", NOT_LOST), pair)],
    )
    page.graph(
        "Frames per second for others",
        "Low for all, and low when sent: the camera or the processor. Low for all but not when sent: the way.",
        FPS,
        [(f"max by ({theirs}) (videocall_pair_video_frames_per_second{{{meeting}}}){of_mine}", pair)],
    )
    page.row("Jitter buffers of their own: browsers do not report these")
    page.graph(
        "NetEQ's decisions",
        "All operations but normal, over the selected pairs.",
        PER_SECOND,
        [
            (
                otherwise(
                    f"sum by (operation) ({rate('videocall_pair_neteq_operations_total', mine, NOT_NORMAL)})",
                    "operation",
                    NO_NETEQ,
                ),
                "{{operation}}",
            )
        ],
    )
    page.graph(
        "Waiting to be decoded",
        "Many: the decoder can't keep up, the machine is busy.",
        {"unit": "short", "thresholds": steps(10, 25)},
        [
            (
                otherwise(each(f"videocall_pair_{metric}"), "session_id", "no client reports this"),
                f"{pair} {what}",
            )
            for metric, what in (("audio_packets_awaiting_decode", "packets"), ("video_frames_buffered", "frames"))
        ],
    )
    return page
