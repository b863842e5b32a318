"""Queries that the dashboards share, and the links behind a click."""

from parts import field, keeps, label, link, open_dashboard

# Selectors from the variables at the top of the page.
WHERE = 'job="$job",region=~"$region",server_type=~"$server_type",server_url=~"$server"'
SESSIONS = WHERE + ',meeting_id=~"$meeting"'
PLACE = 'job="$job",region=~"$region"'
BY_SERVER = "by (region, server_type, server_url)"
EXPAND, NOT_NORMAL, IDLE = ',operation="expand"', ',operation!="normal"', ',reason="idle"'
JOINED, FAILED = ',result="joined"', ',result="failed"'
SERVER_LEGEND = "{{region}} {{server_type}} {{server_url}}"

TO_NETEQ = link(
    "NetEQ on this server",
    open_dashboard(
        "callsight-neteq",
        [label("region", "region"), label("server_type", "server_type"), label("server", "server_url")],
    ),
)
TO_NETEQ_REGION = link(
    "NetEQ in this region",
    open_dashboard("callsight-neteq", [label("region", "region"), keeps("server_type"), keeps("server")]),
)
TO_CAUSE = link(
    "Network or client, on this server",
    open_dashboard(
        "callsight-cause",
        [label("region", "region"), label("server_type", "server_type"), label("server", "server_url")],
    ),
)
TO_CAUSE_REGION = link(
    "Network or client, in this region",
    open_dashboard("callsight-cause", [label("region", "region"), keeps("server_type"), keeps("server")]),
)
TO_PARTICIPATION = link(
    "Who is on this server",
    open_dashboard(
        "callsight-participation",
        [label("region", "region"), label("server_type", "server_type"), label("server", "server_url")],
    ),
)
TO_PARTICIPATION_REGION = link(
    "Who is in this region",
    open_dashboard("callsight-participation", [label("region", "region"), keeps("server_type"), keeps("server")]),
)
TO_SESSION = link(
    "This session",
    open_dashboard(
        "callsight-session", [field("region", "region"), field("meeting", "meeting_id"), field("session", "session_id")]
    ),
)
TO_MEETING = link(
    "This meeting's sessions",
    open_dashboard("callsight-session", [field("region", "region"), field("meeting", "meeting_id")]),
)


def rate(metric, where=WHERE, more=""):
    return f"rate({metric}{{{where}{more}}}[$__rate_interval])"


def grouped(by, expression):
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def otherwise(expression, name, words):
    """The expression, or a line at 0 whose label says in words why there is nothing."""
    return f'{expression} or on () label_replace(vector(0), "{name}", "{words}", "", "")'


# What some clients can't tell: the label that says so, and the words.
NOT_SENT, NOT_LOST, NOT_FROZEN, NOT_HIGH = (
    f"{what} not reported" for what in ("what is sent is", "losses are", "freezes are", "heights are")
)


def quantile(share, metric, by="", where=WHERE):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(metric + '_bucket', where)}))"


def slow(window, by=""):
    """The share of round trips over 300 ms."""
    quick = grouped(by, f'rate(videocall_rtt_seconds_bucket{{{WHERE},le="0.3"}}[{window}])')
    total = grouped(by, f"rate(videocall_rtt_seconds_count{{{WHERE}}}[{window}])")
    return f"1 - {quick} / ({total} > 0)"


def degraded_share(signal, by="region"):
    bad = grouped(by, f'videocall_sessions_degraded{{{WHERE},signal="{signal}"}}')
    return f"{bad} / ({sessions(by)} > 0)"


def sessions(by=""):
    return grouped(by, f"videocall_sessions{{{WHERE}}}")


def per_session_minute(metric, by=""):
    return f"60 * {grouped(by, rate(metric))} / ({sessions(by)} > 0)"


def share_degraded(metric, by, where=PLACE):
    """The degraded share of the sessions that a metric counts, which has one for the degraded beside it."""
    return f"{grouped(by, f'{metric}_degraded{{{where}}}')} / ({grouped(by, f'{metric}{{{where}}}')} > 0)"


def concealed(by, where=WHERE, prefix="videocall_audio"):
    silent = grouped(by, rate(prefix + "_silent_concealed_samples_total", where))
    all_concealed = grouped(by, rate(prefix + "_concealed_samples_total", where))
    return f"({all_concealed} - {silent}) / ({grouped(by, rate(prefix + '_samples_total', where))} > 0)"


def lost(by, where=WHERE, prefix="videocall_audio"):
    return otherwise(lost_share(by, where, prefix), by.rpartition(", ")[2], NOT_LOST)


def lost_share(by="", where=WHERE, prefix="videocall_audio"):
    """The share of the packets that did not arrive."""
    missing = grouped(by, rate(prefix + "_packets_lost_total", where))
    arrived = grouped(by, rate(prefix + "_packets_received_total", where))
    return f"{missing} / ({missing} + {arrived} > 0)"


def sent_lost_share(by=""):
    """The share of the packets sent that the far end lacks, of audio and video together."""
    missing, sent = (
        " + ".join(grouped(by, rate(f"videocall_send_{medium}_{what}_total")) for medium in ("audio", "video"))
        for what in ("packets_lost", "packets")
    )
    return f"({missing}) / ({sent} > 0)"
