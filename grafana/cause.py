"""Network or Client: whose fault is it? What sessions tell of the cause, what they send, over which paths, and which
releases and platforms are worse than others."""

from parts import (
    COUNT,
    DEGRADED,
    DEGRADED_SHARE,
    HEIGHT,
    LOSS_SHARE,
    PER_MINUTE,
    REGION,
    SERVER,
    SERVER_TYPE,
    Page,
    steps,
)
from queries import (
    FAILED,
    NOT_SENT,
    PLACE,
    SERVER_LEGEND,
    TO_PARTICIPATION,
    TO_PARTICIPATION_REGION,
    WHERE,
    grouped,
    otherwise,
    per_session_minute,
    quantile,
    rate,
    sent_lost_share,
    sessions,
    share_degraded,
)

LIMITED_SHARE = {"unit": "percentunit", "thresholds": steps(0.1, 0.3), "max": 1}


def make():
    page = Page(
        "callsight-cause",
        "Network or Client",
        "Whose fault it is: what degraded sessions tell of the cause, what is lost of what they send, and whether"
        " a path, a release or a platform is worse than the others.",
        [REGION, SERVER_TYPE, SERVER],
    )
    page.stat(
        "Degraded",
        "Share of the sessions that any signal degrades.",
        DEGRADED_SHARE,
        share_degraded_any(""),
    )
    evidence = grouped("evidence", f"videocall_sessions_degraded_evidence{{{WHERE}}}")
    page.stat(
        "What most of them tell",
        "path: the network between them and their server. peers: some peers' uplinks. either: one of the two."
        " sending: their own uplink. client: nothing is lost, which leaves clients. unknown: they report too little.",
        DEGRADED,
        otherwise(f"topk(1, {evidence} > 0)", "evidence", "nobody is degraded"),
        "{{evidence}}",
    )
    page.stat(
        "Lost of what is sent",
        "Share of the packets that did not reach the server, or the peer, as it reports to the sender.",
        LOSS_SHARE,
        sent_lost_share(),
        nothing=NOT_SENT,
    )
    page.stat(
        "Slow processors",
        "Share of the sessions whose processor limits the video that they send for most of the time.",
        {"unit": "percentunit", "thresholds": steps(0.05, 0.2), "max": 1},
        f'sum(videocall_sessions_limited{{{WHERE},reason="cpu"}}) / ({sessions()} > 0)',
    )
    page.stat(
        "Worst release",
        "The release with the highest share of degraded sessions. CallReleaseWorse compares it with the others.",
        DEGRADED_SHARE,
        f"topk(1, {share_degraded('videocall_client_sessions', 'app')})",
        "{{app}}",
    )
    joins = "videocall_joins_total"
    page.stat(
        "Failed joins, in this time range",
        "Share of the attempts to join a call. CallJoinsFail fires at 15 %.",
        {"unit": "percentunit", "thresholds": steps(0.05, 0.15), "max": 1},
        f"sum(increase({joins}{{{PLACE}{FAILED}}}[$__range])) / (sum(increase({joins}{{{PLACE}}}[$__range])) > 0)"
        " or vector(0)",
    )
    page.row("What hurts")
    page.graph(
        "Degraded sessions by what they tell",
        "path: the network. peers and sending: certain uplinks. either: one of the two. client: nothing is lost,"
        " which leaves the clients. unknown: they report too little.",
        COUNT,
        [(evidence, "{{evidence}}")],
        stacked=True,
    )
    page.graph(
        "Degraded share by signal",
        "Calls' alerts fire at a fifth of a region, for uplinks at a twentieth.",
        DEGRADED_SHARE,
        [
            (
                f"sum by (region, signal) (videocall_sessions_degraded{{{WHERE}}})"
                f" / on (region) group_left () ({sessions('region')} > 0)",
                "{{region}} {{signal}}",
            )
        ],
        links=[TO_PARTICIPATION_REGION],
    )
    page.row("What sessions send")
    page.graph(
        "Lost of what is sent, by server",
        "One server: its way in. All: look at who. A lossy uplink spoils what all others of the meeting hear.",
        LOSS_SHARE,
        [(otherwise(sent_lost_share("region, server_type, server_url"), "server_url", NOT_SENT), SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
    )
    limited = grouped("region, reason", rate("videocall_send_limited_seconds_total"))
    page.graph(
        "Sent video limited",
        "Share of the time for which something limited it. cpu: slow devices, or a release that encodes too much."
        " bandwidth: uplinks.",
        LIMITED_SHARE,
        [(f"{limited} / on (region) group_left () ({sessions('region')} > 0)", "{{region}} {{reason}}")],
        links=[TO_PARTICIPATION_REGION],
    )
    page.graph(
        "Height of sent video",
        "Of the largest layer. Falling: encoders adapt to what limits them.",
        HEIGHT,
        [
            (
                otherwise(quantile(share, "videocall_send_frame_height_pixels", "region") + " > 0", "region", NOT_SENT),
                f"{{{{region}}}} {name}",
            )
            for name, share in (("median", 0.5), ("lowest tenth", 0.1))
        ],
        links=[TO_PARTICIPATION_REGION],
    )
    page.graph(
        "Repairs asked of sessions",
        "Per session-minute: packets to send again, and whole pictures. Many: what they send is lost.",
        PER_MINUTE,
        [
            (per_session_minute("videocall_send_nacks_total", "region"), "{{region}} packets"),
            (per_session_minute("videocall_send_plis_total", "region"), "{{region}} pictures"),
        ],
        links=[TO_PARTICIPATION_REGION],
    )
    page.row("Paths")
    path = "candidate_type, protocol"
    page.graph(
        "Sessions by path",
        "relay: over TURN. tcp and tls: UDP is blocked, and lost packets delay all that follow.",
        COUNT,
        [(grouped(path, f"videocall_path_sessions{{{PLACE}}}"), "{{candidate_type}} {{protocol}}")],
        stacked=True,
    )
    page.graph(
        "Degraded share by path",
        "relay alone: the TURN servers. tcp alone: the networks that block UDP.",
        DEGRADED_SHARE,
        [(share_degraded("videocall_path_sessions", path), "{{candidate_type}} {{protocol}}")],
    )
    page.graph(
        "ICE restarts per session-minute",
        "A session looks for a new path: it changed its network, or its path broke.",
        {"unit": "short", "thresholds": steps(0.1, 0.5)},
        [(per_session_minute("videocall_ice_restarts_total", "region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
        width=24,
    )
    page.row("Releases and platforms: `none` did not tell, `other` is beyond the budget")
    clients = "videocall_client_sessions"
    page.graph(
        "Degraded share by release",
        "CallReleaseWorse fires for one that has thrice the share of the others.",
        DEGRADED_SHARE,
        [(f"topk(20, {share_degraded(clients, 'app')})", "{{app}}")],
    )
    page.graph(
        "Degraded share by platform",
        "CallPlatformWorse fires for one that has thrice the share of the others, if no release has.",
        DEGRADED_SHARE,
        [(share_degraded(clients, "platform"), "{{platform}}")],
    )
    page.graph(
        "Sessions by release",
        "The course of a rollout.",
        COUNT,
        [(grouped("app", f"{clients}{{{PLACE}}}"), "{{app}}")],
        stacked=True,
    )
    page.table(
        "Degraded share by release and platform",
        "The worst first. A share of few sessions means little.",
        DEGRADED_SHARE,
        f"topk(20, {share_degraded(clients, 'region, app, platform')})",
        ["app", "platform", "region"],
    )
    return page


def share_degraded_any(by):
    return f"{grouped(by, f'videocall_sessions_degraded_any{{{WHERE}}}')} / ({sessions(by)} > 0)"
