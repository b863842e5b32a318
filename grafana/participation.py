"""Participation and Connections: who is affected?"""

from parts import (
    COUNT,
    DEGRADED,
    DEGRADED_SHARE,
    MADE_UP_SHARE,
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
    IDLE,
    SERVER_LEGEND,
    TO_SESSION,
    TO_MEETING,
    TO_MEETING_OF_SERIES,
    rate,
    made_up,
)


def make():
    page = Page(
        "callsight-participation",
        "Participation and Connections",
        "Who is on: meetings, sessions and participants by region and server, and which of them fare worst.",
        [REGION, SERVER_TYPE, SERVER, MEETING],
    )
    for title, metric, description in (
        ("Meetings", "videocall_meetings", "Meetings with a live session; one on two servers counts on each."),
        ("Sessions", "videocall_sessions", "Live sessions: one participant's one connection."),
        ("Participants", "videocall_participants", "People with a live session, each counted once a meeting."),
        ("Peer connections", "videocall_peer_connections", "Remote peers that live sessions observe, all together."),
    ):
        page.stat(title, description, COUNT, f"sum({metric}{{{WHERE}}})")
    page.stat(
        "Degraded, worst signal",
        "Share of the sessions that are degraded by the signal that hits most.",
        DEGRADED_SHARE,
        f"max(sum by (signal) (videocall_sessions_degraded{{{WHERE}}})) / (sum(videocall_sessions{{{WHERE}}}) > 0)",
    )
    page.stat(
        "Left without a word",
        "Share of the sessions removed that fell idle: crashes, and lost networks.",
        {"unit": "percentunit", "thresholds": steps(0.2, 0.5), "max": 1},
        f"sum({rate('callsight_sessions_removed_total', PLACE, IDLE)})"
        f" / (sum({rate('callsight_sessions_removed_total', PLACE)}) > 0)",
    )
    page.row("Where they are")
    page.graph(
        "Sessions by region",
        "A step down in one region is an outage there, or the end of a large meeting.",
        COUNT,
        [(f"sum by (region) (videocall_sessions{{{WHERE}}})", "{{region}}")],
        stacked=True,
    )
    page.graph(
        "Sessions by server",
        "Uneven: election prefers a server, or one was drained.",
        COUNT,
        [(f"sum {BY_SERVER} (videocall_sessions{{{WHERE}}})", SERVER_LEGEND)],
    )
    page.graph(
        "Sessions by protocol",
        "Many on WebSocket: UDP is blocked for them, or WebTransport is broken.",
        COUNT,
        [(f"sum by (server_type) (videocall_sessions{{{WHERE}}})", "{{server_type}}")],
        stacked=True,
    )
    page.graph(
        "Sessions removed",
        "ended: they said so. idle: they fell silent. moved: to another server or meeting.",
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
        "Peers a session",
        "How large meetings are, as their members see them.",
        COUNT,
        [
            (
                f"sum by (region) (videocall_peer_connections{{{WHERE}}})"
                f" / (sum by (region) (videocall_sessions{{{WHERE}}}) > 0)",
                "{{region}}",
            )
        ],
    )
    page.row("Which meetings and sessions")
    page.table(
        "Largest meetings",
        "By live sessions that have series of their own. Click a row for its sessions.",
        COUNT,
        f"topk(20, count by (region, meeting_id) (videocall_session_last_seen_age_seconds{{{SESSIONS}}}))",
        ["meeting_id", "region"],
        links=[TO_MEETING],
    )
    page.table(
        "Slowest sessions",
        "By round-trip time now. Click a row for that session.",
        RTT,
        f"topk(20, max by (region, meeting_id, session_id, peer_id, server_url, server_type)"
        f" (videocall_session_rtt_seconds{{{SESSIONS}}}))",
        ["peer_id", "meeting_id", "session_id", "region", "server_type", "server_url"],
        links=[TO_SESSION],
    )
    pairs = PLACE + ',meeting_id=~"$meeting"'
    page.table(
        "Meetings with most made-up audio",
        "Over all their pairs. Needs --detail pair. Click a row for its sessions.",
        MADE_UP_SHARE,
        f"topk(20, {made_up('region, meeting_id', pairs, 'videocall_pair_audio')})",
        ["meeting_id", "region"],
        links=[TO_MEETING],
    )
    page.table(
        "Sessions with most made-up audio",
        "Over all whom they hear. Needs --detail pair. Click a row for that session.",
        MADE_UP_SHARE,
        f"topk(20, {made_up('region, meeting_id, session_id', pairs, 'videocall_pair_audio')})",
        ["session_id", "meeting_id", "region"],
        links=[TO_SESSION],
    )
    page.graph(
        "Sessions of the selected meetings",
        "Select meetings at the top to follow them. Click a series for its sessions.",
        COUNT,
        [
            (
                f"topk(20, count by (region, meeting_id) (videocall_session_last_seen_age_seconds{{{SESSIONS}}}))",
                "{{meeting_id}} {{region}}",
            )
        ],
        links=[TO_MEETING_OF_SERIES],
        width=24,
    )
    return page
