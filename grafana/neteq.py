"""NetEQ Health: do people hear each other?"""

from parts import (
    BUFFER,
    DEGRADED,
    DEGRADED_SHARE,
    LOSS_SHARE,
    CONCEALED_SHARE,
    PER_SECOND,
    REGION,
    SERVER,
    SERVER_TYPE,
    Page,
    steps,
)
from queries import (
    WHERE,
    BY_SERVER,
    EXPAND,
    SERVER_LEGEND,
    TO_PARTICIPATION,
    TO_PARTICIPATION_REGION,
    rate,
    quantile,
    degraded_share,
    concealed,
)


def make():
    page = Page(
        "callsight-neteq",
        "NetEQ Health",
        "What jitter buffers do with audio: played, concealed, late and lost; and freezes of video.",
        [REGION, SERVER_TYPE, SERVER],
    )
    page.stat(
        "Concealed audio",
        "Share of the audio played that was concealed and audible. From 5 % on, voices sound robotic.",
        CONCEALED_SHARE,
        concealed(""),
    )
    page.stat(
        "Expand",
        "Share of NetEQ's decisions that stretched audio because no packet had arrived.",
        CONCEALED_SHARE,
        f"sum({rate('videocall_neteq_operations_total', more=EXPAND)})"
        f" / (sum({rate('videocall_neteq_operations_total')}) > 0)",
    )
    page.stat(
        "Packets lost",
        "Share of the audio packets that did not arrive.",
        LOSS_SHARE,
        f"sum({rate('videocall_audio_packets_lost_total')}) / (sum({rate('videocall_audio_packets_lost_total')})"
        f" + sum({rate('videocall_audio_packets_received_total')}) > 0)",
    )
    page.stat(
        "Buffer p95",
        "Depth of the jitter buffers, which adds to the audible delay.",
        BUFFER,
        quantile(0.95, "videocall_audio_buffer_seconds"),
    )
    page.stat(
        "One-way audio",
        "Live sessions that can't hear a peer whose microphone is on.",
        DEGRADED,
        f"sum(videocall_sessions_one_way_audio{{{WHERE}}})",
    )
    page.stat(
        "Freezes per session-minute",
        "CallVideoFreezes fires above 1 on a server.",
        {"unit": "short", "thresholds": steps(0.5, 1)},
        f"60 * sum({rate('videocall_video_freezes_total')}) / (sum(videocall_sessions{{{WHERE}}}) > 0)",
    )
    page.row("Audio")
    page.graph(
        "Concealed audio by server",
        "CallConcealment fires above 5 %. Click a series to see who is on that server.",
        CONCEALED_SHARE,
        [(concealed("region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "Expand by server",
        "CallNetEqExpand fires above 5 %. High with little concealed audio: NetEQ stretches silence.",
        CONCEALED_SHARE,
        [
            (
                f"sum {BY_SERVER} ({rate('videocall_neteq_operations_total', more=EXPAND)})"
                f" / (sum {BY_SERVER} ({rate('videocall_neteq_operations_total')}) > 0)",
                SERVER_LEGEND,
            )
        ],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "NetEQ's decisions",
        "One per 10 ms of audio. accelerate and preemptive_expand adapt to jitter; expand fills gaps.",
        PER_SECOND,
        [(f"sum by (operation) ({rate('videocall_neteq_operations_total')})", "{{operation}}")],
        stacked=True,
    )
    page.graph(
        "Packets lost by server",
        "With concealed audio: the network. Without: losses are repaired.",
        LOSS_SHARE,
        [
            (
                f"sum {BY_SERVER} ({rate('videocall_audio_packets_lost_total')})"
                f" / (sum {BY_SERVER} ({rate('videocall_audio_packets_lost_total')})"
                f" + sum {BY_SERVER} ({rate('videocall_audio_packets_received_total')}) > 0)",
                SERVER_LEGEND,
            )
        ],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "Jitter buffer",
        "Deep buffers mean jitter; near zero, the buffer runs empty.",
        BUFFER,
        [
            (quantile(share, "videocall_audio_buffer_seconds", "region"), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p95", 0.95))
        ],
        links=[TO_PARTICIPATION_REGION],
    )
    page.graph(
        "Concealment per stream",
        "Over single audio streams: the median stands for everybody, p95 for the worst twentieth.",
        CONCEALED_SHARE,
        [
            (quantile(share, "videocall_audio_concealment_ratio", "region"), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p95", 0.95))
        ],
        links=[TO_PARTICIPATION_REGION],
    )
    page.row("People")
    page.graph(
        "Share of sessions degraded by audio",
        "CallAudioDegraded fires at a fifth of a region.",
        DEGRADED_SHARE,
        [(degraded_share("audio"), "{{region}}")],
        links=[TO_PARTICIPATION_REGION],
    )
    page.graph(
        "Share of sessions degraded by video",
        "CallVideoDegraded fires at a fifth of a region.",
        DEGRADED_SHARE,
        [(degraded_share("video"), "{{region}}")],
        links=[TO_PARTICIPATION_REGION],
    )
    page.graph(
        "Sessions with one-way audio",
        "Nothing arrives from an unmuted peer: not packet loss, but something broken.",
        DEGRADED,
        [(f"sum {BY_SERVER} (videocall_sessions_one_way_audio{{{WHERE}}})", SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "Freezes per session-minute",
        "With concealed audio: packet loss. Without: bandwidth or decoding.",
        {"unit": "short", "thresholds": steps(0.5, 1)},
        [
            (
                f"60 * sum {BY_SERVER} ({rate('videocall_video_freezes_total')})"
                f" / (sum {BY_SERVER} (videocall_sessions{{{WHERE}}}) > 0)",
                SERVER_LEGEND,
            )
        ],
        links=[TO_PARTICIPATION],
    )
    return page
