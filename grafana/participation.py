"""Participation and Connections: who is affected, and does everybody get in?"""

from parts import (
    COUNT,
    DEGRADED,
    DEGRADED_SHARE,
    CONCEALED_SHARE,
    JOIN_TIME,
    LOSS_SHARE,
    MEETING,
    PER_SECOND,
    REGION,
    RTT,
    SERVER,
    SERVER_TYPE,
    Page,
    steps,
)
from queries import (
    WHERE,
    SESSIONS,
    PLACE,
    BY_SERVER,
    FAILED,
    IDLE,
    JOINED,
    NOT_SENT,
    SERVER_LEGEND,
    TO_SESSION,
    TO_MEETING,
    rate,
    concealed,
    otherwise,
    quantile,
)

SESSION = "region, meeting_id, session_id, peer_id, server_url, server_type, app, platform"
COLUMNS = ["peer_id", "meeting_id", "session_id", "app", "platform", "region", "server_type", "server_url"]


def make():
    page = Page(
        "callsight-participation",
        "Participation and Connections",
        "Meetings, sessions and participants by region and server, and the worst of them.",
        [REGION, SERVER_TYPE, SERVER, MEETING],
    )
    for title, metric, description in (
        ("Meetings", "videocall_meetings", "Meetings with a live session. One on two servers counts on each."),
        ("Sessions", "videocall_sessions", "Live sessions: one participant's one connection."),
        ("Participants", "videocall_participants", "People with a live session, each counted once per meeting."),
        ("Peer connections", "videocall_peer_connections", "Remote peers observed, summed over live sessions."),
    ):
        page.stat(title, description, COUNT, f"sum({metric}{{{WHERE}}})")
    page.stat(
        "Degraded, worst signal",
        "Share of the sessions degraded by the most frequent signal.",
        DEGRADED_SHARE,
        f"max(sum by (signal) (videocall_sessions_degraded{{{WHERE}}})) / (sum(videocall_sessions{{{WHERE}}}) > 0)",
    )
    page.stat(
        "Left without an end frame",
        "Share of the removed sessions that fell idle: crashes and lost networks.",
        {"unit": "percentunit", "thresholds": steps(0.2, 0.5), "max": 1},
        f"sum({rate('callsight_sessions_removed_total', PLACE, IDLE)})"
        f" / (sum({rate('callsight_sessions_removed_total', PLACE)}) > 0) or vector(0)",
    )
    page.row("Where they are")
    page.graph(
        "Sessions by region",
        "A drop in one region is an outage there, or the end of a large meeting.",
        COUNT,
        [(f"sum by (region) (videocall_sessions{{{WHERE}}})", "{{region}}")],
        stacked=True,
    )
    page.graph(
        "Sessions by server",
        "Uneven: election prefers a server, or a server was drained.",
        COUNT,
        [(f"sum {BY_SERVER} (videocall_sessions{{{WHERE}}})", SERVER_LEGEND)],
    )
    page.graph(
        "Sessions by protocol",
        "Many on WebSocket: UDP is blocked for these clients, or WebTransport is broken.",
        COUNT,
        [(f"sum by (server_type) (videocall_sessions{{{WHERE}}})", "{{server_type}}")],
        stacked=True,
    )
    page.graph(
        "Sessions removed",
        "ended: the client said so. idle: it fell silent. moved: to another server or meeting.",
        PER_SECOND,
        [(f"sum by (region, reason) ({rate('callsight_sessions_removed_total', PLACE)})", "{{region}} {{reason}}")],
    )
    page.graph(
        "Sessions degraded",
        "The blast radius, by signal. One session can count under several.",
        DEGRADED,
        [(f"sum by (region, signal) (videocall_sessions_degraded{{{WHERE}}})", "{{region}} {{signal}}")],
    )
    page.graph(
        "Peers per session",
        "The size of meetings as participants see it.",
        COUNT,
        [
            (
                f"sum by (region) (videocall_peer_connections{{{WHERE}}})"
                f" / (sum by (region) (videocall_sessions{{{WHERE}}}) > 0)",
                "{{region}}",
            )
        ],
    )
    page.row("Joining")
    joins = "sum by ({}) (increase(videocall_joins_total{{{}}}[$__rate_interval]))"
    page.graph(
        "Attempts to join",
        "Each once, when it succeeds or fails; failed ones by reason, which the runbook explains. CallJoinsFail fires"
        " at 15 %.",
        COUNT,
        [
            (joins.format("region", PLACE + JOINED), "{{region}} joined"),
            (
                otherwise(joins.format("region, reason", PLACE + FAILED) + " > 0", "region", "none"),
                "{{region}} failed {{reason}}",
            ),
        ],
        stacked=True,
    )
    page.graph(
        "Time to join",
        "Of attempts that succeed. Over 10 s, people give up.",
        JOIN_TIME,
        [
            (
                otherwise(
                    f"{quantile(share, 'videocall_join_seconds', 'region', PLACE)} >= 0", "region", "nobody joins"
                ),
                f"{{{{region}}}} {name}",
            )
            for name, share in (("p50", 0.5), ("p95", 0.95))
        ],
    )
    page.row("Which meetings and sessions")
    page.table(
        "Largest meetings",
        "By live sessions with series of their own. Click a row for its sessions.",
        COUNT,
        f"topk(20, count by (region, meeting_id) (videocall_session_last_seen_age_seconds{{{SESSIONS}}}))",
        ["meeting_id", "region"],
        links=[TO_MEETING],
    )
    page.table(
        "Slowest sessions",
        "By current round-trip time. Click a row for that session.",
        RTT,
        f"topk(20, max by ({SESSION}) (videocall_session_rtt_seconds{{{SESSIONS}}}))",
        COLUMNS,
        links=[TO_SESSION],
    )
    page.table(
        "Sessions that lose most of what they send",
        "Audio or video, whichever is higher: others hear and see them badly. Click a row for that session.",
        LOSS_SHARE,
        otherwise(
            f"topk(20, max by ({SESSION}) (videocall_session_send_loss_ratio{{{SESSIONS}}}))", "peer_id", NOT_SENT
        ),
        COLUMNS,
        links=[TO_SESSION],
    )
    pairs = PLACE + ',meeting_id=~"$meeting"'
    page.table(
        "Meetings with most concealed audio",
        "Over all pairs. Needs --detail pair. Click a row for its sessions.",
        CONCEALED_SHARE,
        f"topk(20, {concealed('region, meeting_id', pairs, 'videocall_pair_audio')})",
        ["meeting_id", "region"],
        links=[TO_MEETING],
    )
    page.table(
        "Sessions with most concealed audio",
        "Over all peers. Needs --detail pair. Click a row for that session.",
        CONCEALED_SHARE,
        f"topk(20, {concealed('region, meeting_id, session_id', pairs, 'videocall_pair_audio')})",
        ["session_id", "meeting_id", "region"],
        links=[TO_SESSION],
    )
    return page
