"""RTT SLO: is it slow, where, since when, and how much of the objective's budget does it use?"""

from parts import DEGRADED, DEGRADED_SHARE, REGION, RTT, SERVER, SERVER_TYPE, SLOW_SHARE, Page, steps
from queries import NOT_SENT, WHERE, SERVER_LEGEND, TO_NETEQ, TO_NETEQ_REGION, degraded_share, otherwise, quantile, slow


def make():
    page = Page(
        "callsight-rtt",
        "RTT SLO",
        "Round-trip times as clients measure them, against the objective: 99 % within 300 ms.",
        [REGION, SERVER_TYPE, SERVER],
    )
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        page.stat(
            name,
            f"Round-trip time, {name} over the selection. From 300 ms on, people talk over each other.",
            RTT,
            quantile(share, "videocall_rtt_seconds"),
        )
    page.stat(
        "Over 300 ms, in this time range",
        "The objective is 1 %. Anything above it uses the 30-day budget.",
        SLOW_SHARE,
        slow("$__range"),
    )
    page.stat(
        "Burn rate, last hour",
        "How many times faster than allowed the budget is used: at 14.4, a month's budget lasts two days.",
        {"unit": "short", "thresholds": steps(1, 6)},
        f"({slow('1h')}) / 0.01",
    )
    page.stat(
        "Sessions degraded by RTT",
        "Live sessions whose last round trip exceeded the exporter's threshold.",
        DEGRADED,
        f'sum(videocall_sessions_degraded{{{WHERE},signal="rtt"}})',
    )
    page.row("Where")
    page.graph(
        "RTT p95 by region",
        "One region alone: its network. All regions: a new version of client or server.",
        RTT,
        [(quantile(0.95, "videocall_rtt_seconds", "region"), "{{region}}")],
        links=[TO_NETEQ_REGION],
    )
    page.graph(
        "RTT p95 by server",
        "One server alone: that server. Click a series to see the effect on audio.",
        RTT,
        [(quantile(0.95, "videocall_rtt_seconds", "region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_NETEQ],
    )
    page.graph(
        "RTT p95 by protocol",
        "WebSocket runs over TCP, so lost packets delay it.",
        RTT,
        [(quantile(0.95, "videocall_rtt_seconds", "region, server_type"), "{{region}} {{server_type}}")],
        links=[TO_NETEQ_REGION],
    )
    page.graph(
        "Share of sessions degraded by RTT",
        "CallRttDegraded fires at a fifth of a region.",
        DEGRADED_SHARE,
        [(degraded_share("rtt"), "{{region}}")],
        links=[TO_NETEQ_REGION],
    )
    page.row("Distribution")
    page.graph(
        "RTT quantiles",
        "A rising median means everybody; a rising tail alone means some clients' own connections. Sent media: as"
        " the far end's reports show it, with its queues.",
        RTT,
        [
            *(
                (quantile(share, "videocall_rtt_seconds"), name)
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            ),
            (
                otherwise(quantile(0.95, "videocall_send_rtt_seconds") + " > 0", "reason", NOT_SENT),
                "p95 of sent media {{reason}}",
            ),
        ],
    )
    page.heatmap(
        "RTT distribution",
        "Round trips by duration. Two bands are two groups of people.",
        "s",
        f"sum by (le) (increase(videocall_rtt_seconds_bucket{{{WHERE}}}[$__rate_interval]))",
    )
    page.row("The objective")
    page.graph(
        "Over 300 ms, 5 minutes",
        "The short window of CallRttSloFastBurn, which fires at 14.4 %.",
        {"unit": "percentunit", "thresholds": steps(0.01, 0.144), "max": 1},
        [(slow("5m", "region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_NETEQ],
    )
    page.graph(
        "Over 300 ms, 1 hour",
        "The long window of CallRttSloFastBurn, which fires at 14.4 %.",
        {"unit": "percentunit", "thresholds": steps(0.01, 0.144), "max": 1},
        [(slow("1h", "region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_NETEQ],
    )
    return page
