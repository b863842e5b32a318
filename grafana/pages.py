"""The five dashboards, panel by panel."""

from parts import (
    AGE,
    BUFFER,
    BYTE_RATE,
    BYTES,
    COUNT,
    DEGRADED,
    DEGRADED_SHARE,
    FPS,
    LATENCY,
    LOSS_SHARE,
    MADE_UP_SHARE,
    MEETING,
    NONE_IS_GOOD,
    ONE_IS_GOOD,
    PER_SECOND,
    REACHES,
    REGION,
    RTT,
    SERVER,
    SERVER_TYPE,
    SESSION,
    SLOW_SHARE,
    STATE,
    Page,
    field,
    keeps,
    label,
    link,
    open_dashboard,
    steps,
)

# What is selected at the top of the page.
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


def made_up(by, where=WHERE, prefix="videocall_audio"):
    grouped = f"sum by ({by})" if by else "sum"
    made = f"{grouped} ({rate(prefix + '_concealed_samples_total', where)})"
    silent = f"{grouped} ({rate(prefix + '_silent_concealed_samples_total', where)})"
    played = f"{grouped} ({rate(prefix + '_samples_total', where)})"
    return f"({made} - {silent}) / ({played} > 0)"


def rtt():
    page = Page(
        "callsight-rtt",
        "RTT SLO",
        "How long round trips take, as clients measure them, against the objective: 99 % within 300 ms.",
        [REGION, SERVER_TYPE, SERVER],
    )
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        page.stat(
            name,
            f"Round-trip time, {name} of everything selected. People begin to talk over each other at 300 ms.",
            RTT,
            quantile(share, "videocall_rtt_seconds"),
        )
    page.stat(
        "Over 300 ms, in this time range",
        "The objective is 1 %. What is above it eats the budget of 30 days.",
        SLOW_SHARE,
        slow("$__range"),
    )
    page.stat(
        "Burn rate, last hour",
        "How many times faster than allowed the budget is used: at 14.4 a month's budget is gone in two days.",
        {"unit": "short", "thresholds": steps(1, 6)},
        f"({slow('1h')}) / 0.01",
    )
    page.stat(
        "Sessions degraded by RTT",
        "Live sessions whose last round trip was over the exporter's threshold.",
        DEGRADED,
        f'sum(videocall_sessions_degraded{{{WHERE},signal="rtt"}})',
    )
    page.row("Where")
    page.graph(
        "RTT p95 by region",
        "One region alone: its network. All of them: a change of client or server.",
        RTT,
        [(quantile(0.95, "videocall_rtt_seconds", "region"), "{{region}}")],
        links=[TO_NETEQ_REGION],
    )
    page.graph(
        "RTT p95 by server",
        "One server alone: that server. Click a series to see what it does to the audio.",
        RTT,
        [(quantile(0.95, "videocall_rtt_seconds", "region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_NETEQ],
    )
    page.graph(
        "RTT p95 by protocol",
        "WebSocket runs over TCP, and takes longer when packets are lost.",
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
    page.row("How it is spread")
    page.graph(
        "RTT quantiles",
        "A median that rises is everybody; a tail that rises alone is some clients' own lines.",
        RTT,
        [
            (quantile(share, "videocall_rtt_seconds"), name)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        ],
    )
    page.heatmap(
        "RTT distribution",
        "Round trips by how long they took. Two bands are two groups of people.",
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


def neteq():
    page = Page(
        "callsight-neteq",
        "NetEQ Health",
        "What jitter buffers make of the packets: what is heard, made up, late and lost; and what video does meanwhile.",
        [REGION, SERVER_TYPE, SERVER],
    )
    page.stat(
        "Made-up audio",
        "Share of the audio played that was made up and audible. From 5 % on voices sound robotic.",
        MADE_UP_SHARE,
        made_up(""),
    )
    page.stat(
        "Expand",
        "Share of NetEQ's decisions that stretched what it had, because nothing had come.",
        MADE_UP_SHARE,
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
        "Depth of the jitter buffers. It is part of the delay that people notice.",
        BUFFER,
        quantile(0.95, "videocall_audio_buffer_seconds"),
    )
    page.stat(
        "One-way audio",
        "Live sessions that can't hear somebody whose microphone is on.",
        DEGRADED,
        f"sum(videocall_sessions_one_way_audio{{{WHERE}}})",
    )
    page.stat(
        "Freezes a minute and session",
        "CallVideoFreezes fires at 1 on a server.",
        {"unit": "short", "thresholds": steps(0.5, 1)},
        f"60 * sum({rate('videocall_video_freezes_total')}) / (sum(videocall_sessions{{{WHERE}}}) > 0)",
    )
    page.row("Audio")
    page.graph(
        "Made-up audio by server",
        "CallConcealment fires at 5 %. Click a series to see who is on that server.",
        MADE_UP_SHARE,
        [(made_up("region, server_type, server_url"), SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "Expand by server",
        "CallNetEqExpand fires at 5 %. High while made-up audio is low: it stretches silence.",
        MADE_UP_SHARE,
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
        "Every 10 ms of audio is one. accelerate and preemptive_expand adapt to jitter; expand fills gaps.",
        PER_SECOND,
        [(f"sum by (operation) ({rate('videocall_neteq_operations_total')})", "{{operation}}")],
        stacked=True,
    )
    page.graph(
        "Packets lost by server",
        "With made-up audio: the network. Without: what is lost is repaired.",
        LOSS_SHARE,
        [
            (
                f"sum {BY_SERVER} ({rate('videocall_audio_packets_lost_total')})"
                f" / (sum {BY_SERVER} ({rate('videocall_audio_packets_received_total')}) > 0)",
                SERVER_LEGEND,
            )
        ],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "Jitter buffer",
        "Deep buffers mean jitter; near nothing means that it runs dry.",
        BUFFER,
        [
            (quantile(share, "videocall_audio_buffer_seconds", "region"), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p95", 0.95))
        ],
        links=[TO_PARTICIPATION_REGION],
    )
    page.graph(
        "Concealment of single streams",
        "Among the streams between people: the median is everybody, p95 the worst twentieth.",
        MADE_UP_SHARE,
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
        "Nothing arrives from an open microphone: not loss, but something broken.",
        DEGRADED,
        [(f"sum {BY_SERVER} (videocall_sessions_one_way_audio{{{WHERE}}})", SERVER_LEGEND)],
        links=[TO_PARTICIPATION],
    )
    page.graph(
        "Freezes a minute and session",
        "With made-up audio: loss. Without: bandwidth or decoding.",
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


def participation():
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
                f"sum by (region) (videocall_peer_connections{{{WHERE}}}) / (sum by (region) (videocall_sessions{{{WHERE}}}) > 0)",
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


def pipeline():
    page = Page(
        "callsight-pipeline",
        "Pipeline Health",
        "Whether the picture of the calls can be believed: from the regions' streams through the exporter to Prometheus.",
        [REGION],
    )
    page.stat(
        "Regions ready",
        "Share of the regions for which /readyz answers yes: complete and current.",
        {"unit": "percentunit", "thresholds": steps(bad=1, falling=True), "max": 1},
        f"avg(callsight_ready{{{PLACE}}})",
    )
    page.stat(
        "Exporters connected",
        "Share of the consumers that are attached to their stream.",
        {"unit": "percentunit", "thresholds": steps(bad=1, falling=True), "max": 1},
        f"avg(callsight_nats_connected{{{PLACE}}})",
    )
    page.stat(
        "Frames waiting",
        "Frames in the streams that no exporter has taken yet. CallsightConsumerLag fires at ten seconds' worth.",
        {"unit": "short", "thresholds": steps(100, 500)},
        f"sum(callsight_consumer_pending_frames{{{PLACE}}})",
    )
    page.stat(
        "Latency p99",
        "From the stream's receipt of a frame to its place in the metrics.",
        LATENCY,
        quantile(0.99, "callsight_frame_latency_seconds", where=PLACE),
    )
    page.stat(
        "Rejected, in this time range",
        "Frames that broke a rule, and were copied to the dead-letter stream.",
        NONE_IS_GOOD,
        f"sum(increase(callsight_frames_rejected_total{{{PLACE}}}[$__range]))",
    )
    page.stat(
        "Alerts firing",
        "Alerts of Callsight, about calls and pipeline alike.",
        NONE_IS_GOOD,
        'count(ALERTS{alertstate="firing",alertname=~"Call.*"}) or vector(0)',
    )
    page.row("From the regions")
    page.graph(
        "Newest frame",
        "How old the newest frame of each stream is. Rising with a mirror that is well: the region is silent.",
        AGE,
        [(f"max by (region) (callsight_stream_last_frame_age_seconds{{{PLACE}}})", "{{region}}")],
    )
    page.graph(
        "Mirror lag",
        "How long a mirror has not heard its origin. Rising: the bridge is down.",
        AGE,
        [(f"max by (region) (callsight_mirror_lag_seconds{{{PLACE}}})", "{{region}}")],
    )
    page.graph(
        "Frames that mirrors lack",
        "They wait in their region. Falling: the mirror is catching up.",
        {"unit": "short", "thresholds": steps(100, 1000)},
        [(f"max by (region) (callsight_mirror_lag_frames{{{PLACE}}})", "{{region}}")],
    )
    page.graph(
        "Frames by fate",
        "Folded is what counts. Repeated and redelivered change nothing, late ones feed counters alone.",
        PER_SECOND,
        [
            (f"sum by (region) ({rate(f'callsight_frames_{fate}_total', PLACE)})", f"{{{{region}}}} {fate}")
            for fate in ("folded", "repeated", "redelivered", "late")
        ],
    )
    page.row("Through the exporter")
    page.graph(
        "Frames waiting",
        "Rising: the exporter can't keep up, or doesn't run.",
        {"unit": "short", "thresholds": steps(100, 500)},
        [
            (f"max by (region) (callsight_consumer_pending_frames{{{PLACE}}})", "{{region}} waiting"),
            (f"max by (region) (callsight_consumer_ack_pending_frames{{{PLACE}}})", "{{region}} not acknowledged"),
        ],
    )
    page.graph(
        "Age of the newest folded frame",
        "How late this and all other pages are, at least.",
        AGE,
        [(f"max by (region) (callsight_last_folded_frame_age_seconds{{{PLACE}}})", "{{region}}")],
    )
    page.graph(
        "Latency",
        "From the stream's receipt of a frame to its fold. The aim is a p99 of 100 ms.",
        {"unit": "s", "thresholds": steps(0.1, 5)},
        [
            (quantile(share, "callsight_frame_latency_seconds", "region", PLACE), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ],
    )
    page.graph(
        "Rejected frames",
        "docs/frame.md tells what each reason means; `callsight frame check --dlq` shows the frames.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [(f"sum by (region, reason) ({rate('callsight_frames_rejected_total', PLACE)}) > 0", "{{region}} {{reason}}")],
    )
    page.graph(
        "Dead letters",
        "Stored for inspection, and lost because the dead-letter stream did not take them.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [
            (f"sum by (region) ({rate('callsight_dead_letters_total', PLACE)})", "{{region}} stored"),
            (f"sum by (region) ({rate('callsight_dead_letters_lost_total', PLACE)})", "{{region}} lost"),
        ],
    )
    page.graph(
        "Clients' clocks",
        "How far clocks in frames are from the stream's. Only for those who compare logs: nothing rests on it.",
        {"unit": "s", "thresholds": steps()},
        [(quantile(0.95, "callsight_client_clock_skew_seconds", "region", PLACE), "{{region}} p95")],
    )
    page.row("To Prometheus")
    page.graph(
        "Live series",
        "What the detail planes hold now; --max-series bounds them.",
        COUNT,
        [('sum by (plane) (callsight_live_series{job="$job"})', "{{plane}}")],
        stacked=True,
    )
    page.graph(
        "Refused by budgets",
        "Rows that would have been too many. The aggregates count them all the same.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [(f"sum by (region, limit) ({rate('callsight_refused_total', PLACE)})", "{{region}} {{limit}}")],
    )
    page.graph(
        "Scrapes",
        "How long a page takes to write. Prometheus gives up after scrape_timeout.",
        {"unit": "s", "thresholds": steps(1, 4)},
        [(quantile(0.99, "callsight_scrape_duration_seconds", where='job="$job"'), "p99")],
    )
    page.graph(
        "Size of a scrape",
        "Before compression.",
        BYTES,
        [('max by (instance) (callsight_scrape_bytes{job="$job"})', "{{instance}}")],
    )
    page.graph(
        "Processor time",
        "Seconds a second: 1 is one core.",
        {"unit": "short", "thresholds": steps()},
        [('sum by (instance) (rate(process_cpu_seconds_total{job="$job"}[$__rate_interval]))', "{{instance}}")],
    )
    page.graph(
        "Memory",
        "Resident. docs/performance.md tells what it is made of.",
        BYTES,
        [('sum by (instance) (process_resident_memory_bytes{job="$job"})', "{{instance}}")],
    )
    page.states(
        "Ready",
        "Which exporter was ready for which region, and when.",
        ONE_IS_GOOD,
        f"min by (instance, region) (callsight_ready{{{PLACE}}})",
        "{{instance}} {{region}}",
    )
    page.states(
        "Versions",
        "Which versions ran, and when.",
        STATE,
        'max by (version) (callsight_build_info{job="$job"})',
        "{{version}}",
    )
    return page


def session():
    page = Page(
        "callsight-session",
        "Session Drill-down",
        "One meeting, session by session: what each measured, whom it could hear and see. Needs --detail pair for the pairs.",
        [REGION, MEETING, SESSION],
    )
    mine = PLACE + ',meeting_id=~"$meeting",session_id=~"$session"'
    page.stat(
        "Sessions",
        "Live sessions that are selected.",
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
        "Last heard, worst",
        "How long the most silent of them has sent no frame.",
        AGE,
        f"max(videocall_session_last_seen_age_seconds{{{mine}}})",
    )
    page.stat(
        "Unheard pairs",
        "Pairs in which the session can't hear the peer, muted or not.",
        DEGRADED,
        f"count(videocall_pair_can_listen{{{mine}}} == 0) or vector(0)",
    )
    page.stat(
        "Made-up audio",
        "Of all that they hear.",
        MADE_UP_SHARE,
        made_up("", mine, "videocall_pair_audio"),
    )
    page.stat(
        "Freezes a minute",
        "Of all that they see.",
        {"unit": "short", "thresholds": steps(1, 5)},
        f"60 * sum({rate('videocall_pair_video_freezes_total', mine)})",
    )
    page.row("The sessions")
    page.graph(
        "RTT",
        "Of each session, to its server. One alone: that person's line.",
        RTT,
        [
            (
                f"max by (session_id, peer_id, server_type, server_url) (videocall_session_rtt_seconds{{{mine}}})",
                "{{peer_id}} {{server_type}} {{server_url}}",
            )
        ],
    )
    page.graph(
        "Time since last heard",
        "A saw's teeth are the frames' interval. A line that rises is a client that is gone.",
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
        "Whose own microphone was on.",
        STATE,
        f"max by (session_id, peer_id) (videocall_session_audio_enabled{{{mine}}})",
        "{{peer_id}} {{session_id}}",
    )
    page.states(
        "Cameras",
        "Whose own camera was on.",
        STATE,
        f"max by (session_id, peer_id) (videocall_session_video_enabled{{{mine}}})",
        "{{peer_id}} {{session_id}}",
    )
    page.row("Whom they hear and see: each session, and each peer in it")
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
        "Made-up audio",
        "Share of what the session played of the peer. The same peer for all: the peer's line.",
        MADE_UP_SHARE,
        [(made_up("session_id, peer_id", mine, "videocall_pair_audio"), pair)],
    )
    page.graph(
        "NetEQ's decisions",
        "Everything but normal, over the selected pairs.",
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
        "Jitter buffer's aim",
        "What NetEQ aims at: it rises with jitter.",
        BUFFER,
        [(f"max {by_pair} (videocall_pair_audio_target_seconds{{{mine}}})", pair)],
    )
    page.graph(
        "Packets awaiting decode",
        "Many: the decoder can't keep up, so the machine is busy.",
        {"unit": "short", "thresholds": steps(10, 25)},
        [(f"max {by_pair} (videocall_pair_audio_packets_awaiting_decode{{{mine}}})", pair)],
    )
    page.graph(
        "Video frames a second",
        "0 is a camera that is off, or nothing that comes.",
        FPS,
        [(f"max {by_pair} (videocall_pair_video_frames_per_second{{{mine}}})", pair)],
    )
    page.graph(
        "Video frames waiting",
        "Many: decoding or showing is slow.",
        {"unit": "short", "thresholds": steps(10, 30)},
        [(f"max {by_pair} (videocall_pair_video_frames_buffered{{{mine}}})", pair)],
    )
    page.graph(
        "Video bit rate",
        "It falls where bandwidth is short.",
        BYTE_RATE,
        [(f"max {by_pair} (videocall_pair_video_bytes_per_second{{{mine}}})", pair)],
    )
    page.graph(
        "Freezes a minute",
        "Of each peer's video.",
        {"unit": "short", "thresholds": steps(1, 5)},
        [(f"60 * sum {by_pair} ({rate('videocall_pair_video_freezes_total', mine)})", pair)],
    )
    return page


def all_pages():
    return [make().model() for make in (rtt, neteq, participation, pipeline, session)]
