"""Queries that the dashboards share, and the links behind a click."""

from parts import field, keeps, label, link, open_dashboard

# Selectors from the variables at the top of the page.
WHERE = 'job="$job",region=~"$region",server_type=~"$server_type",server_url=~"$server"'
SESSIONS = WHERE + ',meeting_id=~"$meeting"'
PLACE = 'job="$job",region=~"$region"'
BY_SERVER = "by (region, server_type, server_url)"
EXPAND, NOT_NORMAL, IDLE = ',operation="expand"', ',operation!="normal"', ',reason="idle"'
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
TO_MEETING_OF_SERIES = link(
    "This meeting's sessions",
    open_dashboard("callsight-session", [label("region", "region"), label("meeting", "meeting_id")]),
)


def rate(metric, where=WHERE, more=""):
    return f"rate({metric}{{{where}{more}}}[$__rate_interval])"


def quantile(share, metric, by="", where=WHERE):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(metric + '_bucket', where)}))"


def slow(window, by=""):
    """The share of round trips over 300 ms."""
    grouped = f"sum by ({by})" if by else "sum"
    quick = f'{grouped} (rate(videocall_rtt_seconds_bucket{{{WHERE},le="0.3"}}[{window}]))'
    total = f"{grouped} (rate(videocall_rtt_seconds_count{{{WHERE}}}[{window}]))"
    return f"1 - {quick} / ({total} > 0)"


def degraded_share(signal, by="region"):
    bad = f'sum by ({by}) (videocall_sessions_degraded{{{WHERE},signal="{signal}"}})'
    return f"{bad} / (sum by ({by}) (videocall_sessions{{{WHERE}}}) > 0)"


def concealed(by, where=WHERE, prefix="videocall_audio"):
    grouped = f"sum by ({by})" if by else "sum"
    all_concealed = f"{grouped} ({rate(prefix + '_concealed_samples_total', where)})"
    silent = f"{grouped} ({rate(prefix + '_silent_concealed_samples_total', where)})"
    played = f"{grouped} ({rate(prefix + '_samples_total', where)})"
    return f"({all_concealed} - {silent}) / ({played} > 0)"
