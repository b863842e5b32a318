"""Pipeline Health: can the others be trusted?"""

from parts import AGE, BYTES, COUNT, LATENCY, NONE_IS_GOOD, ONE_IS_GOOD, PER_SECOND, REGION, STATE, Page, steps
from queries import PLACE, otherwise, rate, quantile

NO_MIRROR = ("region", "no mirror is read")

# Instances of ingest are a job of their own.
ANY_JOB = 'region=~"$region"'
NO_INGEST = "no ingest runs"


def by_reason(metric, none):
    return otherwise(f"sum by (region, reason) ({rate(metric, PLACE)}) > 0", "reason", none)


def make():
    page = Page(
        "callsight-pipeline",
        "Pipeline Health",
        "Whether the view of calls can be trusted: from the regions' streams, through the exporter, to Prometheus.",
        [REGION],
    )
    page.stat(
        "Regions ready",
        "Share of the regions that /readyz reports as complete and current.",
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
        "Frames in the streams that no exporter has received. CallsightConsumerLag fires at ten seconds' worth.",
        {"unit": "short", "thresholds": steps(100, 500)},
        f"sum(callsight_consumer_pending_frames{{{PLACE}}})",
    )
    page.stat(
        "Latency p99",
        "From the stream's receipt of a frame to its fold.",
        LATENCY,
        quantile(0.99, "callsight_frame_latency_seconds", where=PLACE),
    )
    page.stat(
        "Rejected, in this time range",
        "Invalid frames, copied to the dead-letter stream.",
        NONE_IS_GOOD,
        f"sum(increase(callsight_frames_rejected_total{{{PLACE}}}[$__range]))",
    )
    page.stat(
        "Alerts firing",
        "Callsight's alerts, on calls and pipeline.",
        NONE_IS_GOOD,
        'count(ALERTS{alertstate="firing",alertname=~"Call.*"}) or vector(0)',
    )
    page.row("From the regions")
    page.graph(
        "Newest frame",
        "Age of the newest frame of each stream. Rising with a healthy mirror: the region is silent.",
        AGE,
        [(f"max by (region) (callsight_stream_last_frame_age_seconds{{{PLACE}}})", "{{region}}")],
    )
    page.graph(
        "Mirror lag",
        "Time since a mirror's last contact with its origin. Rising: the bridge is down.",
        AGE,
        [(otherwise(f"max by (region) (callsight_mirror_lag_seconds{{{PLACE}}})", *NO_MIRROR), "{{region}}")],
    )
    page.graph(
        "Frames missing in mirrors",
        "They are kept in their region. Falling: the mirror is catching up.",
        {"unit": "short", "thresholds": steps(100, 1000)},
        [(otherwise(f"max by (region) (callsight_mirror_lag_frames{{{PLACE}}})", *NO_MIRROR), "{{region}}")],
    )
    page.graph(
        "Frames by outcome",
        "Folded frames change the series. Repeated, refused and redelivered ones change nothing, late ones only feed counters.",
        PER_SECOND,
        [
            (f"sum by (region) ({rate(f'callsight_frames_{outcome}_total', PLACE)})", f"{{{{region}}}} {outcome}")
            for outcome in ("folded", "repeated", "refused", "redelivered", "late")
        ],
    )
    page.row("Through the exporter")
    page.graph(
        "Frames waiting",
        "Rising: the exporter can't keep up, or does not run.",
        {"unit": "short", "thresholds": steps(100, 500)},
        [
            (f"max by (region) (callsight_consumer_pending_frames{{{PLACE}}})", "{{region}} waiting"),
            (f"max by (region) (callsight_consumer_ack_pending_frames{{{PLACE}}})", "{{region}} not acknowledged"),
        ],
    )
    page.graph(
        "Frames missed",
        "Removed from the stream before they were read: full, too old or purged. No series has them.",
        {"unit": "short", "thresholds": steps(1, 1)},
        [(f"sum by (region) (increase(callsight_frames_missed_total{{{PLACE}}}[$__rate_interval]))", "{{region}}")],
    )
    page.graph(
        "Age of the newest folded frame",
        "The minimum lag of this and all other dashboards.",
        AGE,
        [(f"max by (region) (callsight_last_folded_frame_age_seconds{{{PLACE}}})", "{{region}}")],
    )
    page.graph(
        "Latency",
        "From the stream's receipt of a frame to its fold. The target is a p99 of 100 ms.",
        {"unit": "s", "thresholds": steps(0.1, 5)},
        [
            (quantile(share, "callsight_frame_latency_seconds", "region", PLACE), f"{{{{region}}}} {name}")
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ],
    )
    page.graph(
        "Rejected frames",
        "docs/frame.md explains the reasons; `callsight frame check --dlq` shows the frames.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [(by_reason("callsight_frames_rejected_total", "none is rejected"), "{{region}} {{reason}}")],
    )
    page.graph(
        "Refused frames",
        "Valid, but beyond --max-sessions, of another's session, or far above its watermark: docs/frame.md.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [(by_reason("callsight_frames_refused_total", "none is refused"), "{{region}} {{reason}}")],
    )
    page.graph(
        "Implausible growth",
        "Counters in folded frames that grew by more than a call can bring. No aggregate has that growth.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [(f"sum by (region) ({rate('callsight_implausible_growth_total', PLACE)})", "{{region}}")],
    )
    page.graph(
        "Dead letters",
        "Stored for inspection, or lost because the dead-letter stream did not store them.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [
            (f"sum by (region) ({rate('callsight_dead_letters_total', PLACE)})", "{{region}} stored"),
            (f"sum by (region) ({rate('callsight_dead_letters_lost_total', PLACE)})", "{{region}} lost"),
        ],
    )
    page.graph(
        "Clients' clocks",
        "Difference between clocks in frames and the stream's. Only for comparing logs; nothing depends on it.",
        {"unit": "s", "thresholds": steps()},
        [(quantile(0.95, "callsight_client_clock_skew_seconds", "region", PLACE), "{{region}} p95")],
    )
    page.row("In over HTTP")
    page.graph(
        "Frames at ingest, by outcome",
        "What became of the frames of clients that no relay serves. Abandoned: the client hung up.",
        PER_SECOND,
        [
            (
                otherwise(
                    f"sum by (region, outcome) ({rate('callsight_ingest_frames_total', ANY_JOB)})", "outcome", NO_INGEST
                ),
                "{{region}} {{outcome}}",
            )
        ],
    )
    page.graph(
        "Refused by ingest",
        "docs/ingest.md explains the reasons. Clients hear them too.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [
            (
                otherwise(
                    "sum by (region, reason) ("
                    + rate("callsight_ingest_frames_total", f'{ANY_JOB},outcome!~"stored|duplicate|abandoned"')
                    + ") > 0",
                    "reason",
                    "none is refused",
                ),
                "{{region}} {{reason}}",
            )
        ],
    )
    page.graph(
        "Acks at ingest",
        "Time until the stream has a frame. CallsightIngestSlow fires at a p99 of a second.",
        {"unit": "s", "thresholds": steps(0.1, 1)},
        [
            (
                otherwise(quantile(share, "callsight_ingest_ack_seconds", "region", ANY_JOB), "region", NO_INGEST),
                f"{{{{region}}}} {name}",
            )
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ],
    )
    page.states(
        "Ingest ready",
        "When each instance could store frames.",
        ONE_IS_GOOD,
        otherwise(f"min by (instance, region) (callsight_ingest_ready{{{ANY_JOB}}})", "instance", NO_INGEST),
        "{{instance}} {{region}}",
    )
    page.row("To Prometheus")
    page.graph(
        "Live series",
        "Series in the detail planes; --max-series bounds them.",
        COUNT,
        [('sum by (plane) (callsight_live_series{job="$job"})', "{{plane}}")],
        stacked=True,
    )
    page.graph(
        "Refused by budgets",
        "Rows beyond a budget, which the aggregates still count, and further peers, which they lack.",
        {"unit": "cps", "thresholds": steps(0.01, 1)},
        [(f"sum by (region, limit) ({rate('callsight_refused_total', PLACE)})", "{{region}} {{limit}}")],
    )
    page.graph(
        "Scrapes",
        "Time to write a page. Prometheus gives up after scrape_timeout.",
        {"unit": "s", "thresholds": steps(1, 4)},
        [(quantile(0.99, "callsight_scrape_duration_seconds", where='job="$job"'), "p99")],
    )
    page.graph(
        "Scrape size",
        "Before compression.",
        BYTES,
        [('max by (instance) (callsight_scrape_bytes{job="$job"})', "{{instance}}")],
    )
    page.graph(
        "CPU",
        "CPU seconds per second: 1 is one core.",
        {"unit": "short", "thresholds": steps()},
        [('sum by (instance) (rate(process_cpu_seconds_total{job="$job"}[$__rate_interval]))', "{{instance}}")],
    )
    page.graph(
        "Memory",
        "Resident memory. docs/performance.md says what it consists of.",
        BYTES,
        [('sum by (instance) (process_resident_memory_bytes{job="$job"})', "{{instance}}")],
    )
    page.states(
        "Ready",
        "When each exporter was ready for each region.",
        ONE_IS_GOOD,
        f"min by (instance, region) (callsight_ready{{{PLACE}}})",
        "{{instance}} {{region}}",
    )
    page.states(
        "Versions",
        "When each version ran.",
        STATE,
        'max by (version) (callsight_build_info{job="$job"})',
        "{{version}}",
    )
    return page
