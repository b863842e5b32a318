"""NetEQ Health: do people hear and see each other?

Every jitter buffer is a NetEQ, in browsers too, but only clients that have one of their own count its operations. So
the panels ask what all of them count, and the operations have a row of their own.
"""

from parts import (
    BUFFER,
    CONCEALED_SHARE,
    DEGRADED,
    FREEZES,
    HEIGHT,
    LOSS_SHARE,
    PER_MINUTE,
    PER_SECOND,
    REGION,
    SERVER,
    SERVER_TYPE,
    SHARE,
    Page,
    steps,
)
from queries import (
    WHERE,
    BY_SERVER,
    EXPAND,
    NOT_HIGH,
    NOT_LOST,
    SERVER_LEGEND,
    TO_CAUSE,
    TO_CAUSE_REGION,
    TO_PARTICIPATION,
    concealed,
    grouped,
    lost,
    lost_share,
    otherwise,
    per_session_minute,
    quantile,
    rate,
)

SERVERS = "region, server_type, server_url"
NO_NETEQ = "no client reports NetEQ operations"


def make():
    page = Page(
        "callsight-neteq",
        "NetEQ Health",
        "What jitter buffers do with audio: played, concealed, late and lost; and whether video flows.",
        [REGION, SERVER_TYPE, SERVER],
    )
    page.stat(
        "Concealed audio",
        "Share of the audio played that was concealed and audible. From 5 % on, voices sound robotic.",
        CONCEALED_SHARE,
        concealed(""),
    )
    page.stat(
        "Audio lost",
        "Share of the audio packets that did not arrive.",
        LOSS_SHARE,
        lost_share(),
        nothing=NOT_LOST,
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
        "Video lost",
        "Share of the video packets that did not arrive. Most are sent again.",
        LOSS_SHARE,
        lost_share(prefix="videocall_video"),
        nothing=NOT_LOST,
    )
    page.stat(
        "Freezes per session-minute",
        "CallVideoFreezes fires above 1 on a server.",
        FREEZES,
        per_session_minute("videocall_video_freezes_total"),
    )
    page.row("Audio")
    page.graph(
        "Concealed audio by server",
        "CallConcealment fires above 5 %. Click a series for the cause, or to see who is on that server.",
        CONCEALED_SHARE,
        [(concealed(SERVERS), SERVER_LEGEND)],
        links=[TO_CAUSE, TO_PARTICIPATION],
    )
    page.graph(
        "Audio lost by server",
        "With concealed audio: the network. Without: losses are repaired.",
        LOSS_SHARE,
        [(lost(SERVERS), SERVER_LEGEND)],
        links=[TO_CAUSE, TO_PARTICIPATION],
    )
    played = f"({grouped('', rate('videocall_audio_samples_total'))} > 0)"
    page.graph(
        "What jitter buffers do",
        "Share of the samples played. Inserted and removed: it adapts to jitter. Concealed: it ran empty.",
        SHARE,
        [
            (f"{grouped('', rate(f'videocall_audio_{what}_samples_total'))} / {played}", legend)
            for what, legend in (
                ("concealed", "concealed"),
                ("silent_concealed", "concealed, in silence"),
                ("inserted", "inserted to play slower"),
                ("removed", "removed to play faster"),
            )
        ],
    )
    page.graph(
        "Gaps per session-minute",
        "Gaps that were concealed, each once. Many short ones mean jitter, a few long ones mean outages."
        " Discarded: packets that came too late to be played.",
        PER_MINUTE,
        [
            (per_session_minute("videocall_audio_concealment_events_total", "region"), "{{region}} gaps"),
            (per_session_minute("videocall_audio_packets_discarded_total", "region"), "{{region}} discarded packets"),
        ],
        links=[TO_CAUSE_REGION],
    )
    page.graph(
        "Jitter buffer",
        "Deep buffers mean jitter; near zero, the buffer runs empty.",
        BUFFER,
        [
            (quantile(share, "videocall_audio_buffer_seconds", "region"), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p95", 0.95))
        ],
        links=[TO_CAUSE_REGION],
    )
    page.graph(
        "Concealment per stream",
        "Over single audio streams: the median stands for everybody, p95 for the worst twentieth.",
        CONCEALED_SHARE,
        [
            (quantile(share, "videocall_audio_concealment_ratio", "region"), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p95", 0.95))
        ],
        links=[TO_CAUSE_REGION],
    )
    page.graph(
        "Sessions with one-way audio",
        "Nothing arrives from an unmuted peer: not packet loss, but something broken.",
        DEGRADED,
        [(f"sum {BY_SERVER} (videocall_sessions_one_way_audio{{{WHERE}}})", SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
        width=24,
    )
    page.row("Video, shared screens included")
    page.graph(
        "Video lost by server",
        "Without freezes: losses are repaired in time.",
        LOSS_SHARE,
        [(lost(SERVERS, prefix="videocall_video"), SERVER_LEGEND)],
        links=[TO_CAUSE, TO_PARTICIPATION],
    )
    page.graph(
        "Freezes per session-minute",
        "CallVideoFreezes fires above 1. With loss: the network. Without: bandwidth, encoding or decoding.",
        FREEZES,
        [(per_session_minute("videocall_video_freezes_total", SERVERS), SERVER_LEGEND)],
        links=[TO_CAUSE, TO_PARTICIPATION],
    )
    page.graph(
        "Seconds frozen per session-minute",
        "How long freezes are: many short ones stutter, a few long ones are outages.",
        {"unit": "s", "thresholds": steps(1, 5)},
        [(per_session_minute("videocall_video_freeze_seconds_total", "region"), "{{region}}")],
        links=[TO_CAUSE_REGION],
    )
    page.graph(
        "Height",
        "Of received video. Falling for all: bandwidth is short, or senders are limited.",
        HEIGHT,
        [
            (
                otherwise(
                    quantile(share, "videocall_video_frame_height_pixels", "region") + " > 0", "region", NOT_HIGH
                ),
                f"{{{{region}}}} {name}",
            )
            for name, share in (("median", 0.5), ("lowest tenth", 0.1))
        ],
        links=[TO_CAUSE_REGION],
    )
    page.graph(
        "Repairs asked of senders",
        "Per session-minute: packets to send again, and whole pictures, without which a decoder stands still.",
        PER_MINUTE,
        [
            (per_session_minute("videocall_video_nacks_total", "region"), "{{region}} packets"),
            (per_session_minute("videocall_video_plis_total", "region"), "{{region}} pictures"),
        ],
        links=[TO_CAUSE_REGION],
    )
    dropped, decoded = (
        grouped("region", rate(f"videocall_video_frames_{what}_total")) for what in ("dropped", "decoded")
    )
    page.graph(
        "Frames dropped",
        "Share of the frames that were not shown. High without loss: the receivers' devices are busy.",
        {"unit": "percentunit", "thresholds": steps(0.02, 0.1), "max": 1},
        [(f"{dropped} / ({dropped} + {decoded} > 0)", "{{region}}")],
        links=[TO_CAUSE_REGION],
    )
    page.row("NetEQ's operations: only clients with a jitter buffer of their own report them, browsers do not")
    operations = rate("videocall_neteq_operations_total")
    page.graph(
        "Expand by server",
        "CallNetEqExpand fires above 5 %. High with little concealed audio: NetEQ stretches silence.",
        CONCEALED_SHARE,
        [
            (
                otherwise(
                    f"sum {BY_SERVER} ({rate('videocall_neteq_operations_total', more=EXPAND)})"
                    f" / (sum {BY_SERVER} ({operations}) > 0)",
                    "server_url",
                    NO_NETEQ,
                ),
                SERVER_LEGEND,
            )
        ],
        links=[TO_CAUSE, TO_PARTICIPATION],
    )
    page.graph(
        "NetEQ's decisions",
        "One per 10 ms of audio. accelerate and preemptive_expand adapt to jitter; expand fills gaps.",
        PER_SECOND,
        [
            (
                otherwise(
                    f"sum by (operation) ({operations}) and on () (sum({operations}) > 0)", "operation", NO_NETEQ
                ),
                "{{operation}}",
            )
        ],
        stacked=True,
    )
    return page
