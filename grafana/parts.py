"""Parts that the dashboards share: variables, annotations, links, and panels, which always have a unit, a description
and thresholds because their constructors require them."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# The dashboards, in order from the question to the answer.
CHAIN = [
    ("callsight-rtt", "RTT SLO"),
    ("callsight-neteq", "NetEQ Health"),
    ("callsight-cause", "Network or Client"),
    ("callsight-participation", "Participation and Connections"),
    ("callsight-session", "Session Drill-down"),
]
PIPELINE = ("callsight-pipeline", "Pipeline Health")

# One meaning per colour, everywhere.
GOOD, NOTICEABLE, BAD, NEUTRAL = "green", "yellow", "red", "blue"


def steps(noticeable=None, bad=None, *, falling=False):
    """Thresholds of a value that is worse when higher, or lower if `falling`. Without any, it is neutral."""
    if noticeable is None and bad is None:
        return [{"color": NEUTRAL, "value": None}]
    marks = [(value, colour) for value, colour in ((noticeable, NOTICEABLE), (bad, BAD)) if value is not None]
    if not falling:
        return [{"color": GOOD, "value": None}] + [{"color": colour, "value": value} for value, colour in marks]
    # From the bottom: bad, then noticeable, then good.
    marks.reverse()
    colours = [colour for _, colour in marks] + [GOOD]
    values = [None] + [value for value, _ in marks]
    return [{"color": colour, "value": value} for colour, value in zip(colours, values)]


# Units and thresholds, declared once.
RTT = {"unit": "s", "thresholds": steps(0.15, 0.3)}
SLOW_SHARE = {"unit": "percentunit", "thresholds": steps(0.01, 0.06), "max": 1}
CONCEALED_SHARE = {"unit": "percentunit", "thresholds": steps(0.02, 0.05), "max": 1}
DEGRADED_SHARE = {"unit": "percentunit", "thresholds": steps(0.05, 0.2), "max": 1}
LOSS_SHARE = {"unit": "percentunit", "thresholds": steps(0.01, 0.05), "max": 1}
DEGRADED = {"unit": "short", "thresholds": steps(1, 5)}
BUFFER = {"unit": "s", "thresholds": steps(0.15, 0.4)}
COUNT = {"unit": "short", "thresholds": steps()}
NONE_IS_GOOD = {"unit": "short", "thresholds": steps(bad=1)}
ONE_IS_GOOD = {"unit": "bool_yes_no", "thresholds": steps(bad=1, falling=True), "max": 1}
STATE = {"unit": "bool_on_off", "thresholds": steps(), "max": 1}
REACHES = {"unit": "bool_yes_no", "thresholds": steps(bad=1, falling=True), "max": 1}
PER_SECOND = {"unit": "cps", "thresholds": steps()}
AGE = {"unit": "s", "thresholds": steps(10, 30)}
LATENCY = {"unit": "s", "thresholds": steps(1, 5)}
BYTES = {"unit": "bytes", "thresholds": steps()}
BYTE_RATE = {"unit": "Bps", "thresholds": steps()}
FPS = {"unit": "short", "thresholds": steps(20, 10, falling=True)}
HEIGHT = {"unit": "suffix:p", "thresholds": steps(360, 180, falling=True)}
PER_MINUTE = {"unit": "short", "thresholds": steps()}
FREEZES = {"unit": "short", "thresholds": steps(0.5, 1)}
JOIN_TIME = {"unit": "s", "thresholds": steps(5, 10)}
SHARE = {"unit": "percentunit", "thresholds": steps(), "max": 1}


def variable(name, label, query, description, *, multi=True):
    """A variable over label values. With `multi`, all are selected at first."""
    everything = {"selected": True, "text": ["All"], "value": ["$__all"]}
    made = {
        "name": name,
        "label": label,
        "description": description,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "Variable"},
        "refresh": 2,
        "sort": 1,
        "multi": multi,
        "includeAll": multi,
    }
    if multi:
        made["allValue"] = ".*"
        made["current"] = everything
    return made


DATASOURCE_VARIABLE = {
    "name": "datasource",
    "label": "Prometheus",
    "description": "The Prometheus to query. It must scrape Callsight's exporter.",
    "type": "datasource",
    "query": "prometheus",
    "refresh": 1,
}
JOB = variable(
    "job",
    "Deployment",
    "label_values(callsight_build_info, job)",
    "Exporters side by side (blue and green) see the same calls, so select one at a time.",
    multi=False,
)
REGION = variable(
    "region",
    "Region",
    'label_values(videocall_sessions{job="$job"}, region)',
    "The region of the calls' servers.",
)
SERVER_TYPE = variable(
    "server_type",
    "Protocol",
    'label_values(videocall_sessions{job="$job",region=~"$region"}, server_type)',
    "The protocol between client and server.",
)
SERVER = variable(
    "server",
    "Server",
    'label_values(videocall_sessions{job="$job",region=~"$region",server_type=~"$server_type"}, server_url)',
    "The servers that clients elected; `none` for sessions without one.",
)
MEETING = variable(
    "meeting",
    "Meeting",
    'label_values(videocall_session_last_seen_age_seconds{job="$job",region=~"$region"'
    ',server_url=~"$server"}, meeting_id)',
    "Meetings with sessions that have series of their own. Empty with --detail off.",
)
SESSION = variable(
    "session",
    "Session",
    'label_values(videocall_session_last_seen_age_seconds{job="$job",region=~"$region"'
    ',meeting_id=~"$meeting"}, session_id)',
    "Sessions of the meeting. A session is one participant's one connection.",
)


def annotation(name, colour, expression, title, text, tags):
    return {
        "name": name,
        "enable": True,
        "iconColor": colour,
        "datasource": DATASOURCE,
        "target": {"refId": "Annotation", "expr": expression, "interval": "15s"},
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": tags,
    }


# A rollout: a version that a deployment did not run a minute ago.
ROLLOUTS = annotation(
    "Rollouts",
    "blue",
    "count by (job, version) (callsight_build_info)" " unless count by (job, version) (callsight_build_info offset 1m)",
    "Callsight {{version}}",
    "First seen in {{job}}",
    "job,version",
)
ALERTS = annotation(
    "Alerts",
    "red",
    'ALERTS{alertstate="firing",alertname=~"Call.*"}',
    "{{alertname}}",
    "{{region}} {{server_type}} {{server_url}}",
    "severity,region",
)


def open_dashboard(uid, variables):
    """The URL of a dashboard with the time range and some variables; Grafana fills in `${…}`."""
    return f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}&${{job:queryparam}}" + "".join(
        f"&{variable}" for variable in variables
    )


def keeps(name):
    """The variable with its current selection."""
    return f"${{{name}:queryparam}}"


def label(variable_name, label_name):
    """The variable set to a label of the clicked series."""
    return f"var-{variable_name}=${{__field.labels.{label_name}}}"


def field(variable_name, column):
    """The variable set to a column of the clicked table row."""
    return f'var-{variable_name}=${{__data.fields["{column}"]}}'


def link(title, url):
    return {"title": title, "url": url, "targetBlank": False}


class Page:
    """A dashboard. Panels fill rows of 24 columns from left to right."""

    def __init__(self, uid, title, description, variables):
        self.uid, self.title, self.description, self.variables = uid, title, description, variables
        self.panels, self.x, self.y, self.height = [], 0, 0, 0

    def _place(self, width, height):
        if self.x + width > 24:
            self.x, self.y, self.height = 0, self.y + self.height, 0
        position = {"h": height, "w": width, "x": self.x, "y": self.y}
        self.x += width
        self.height = max(self.height, height)
        return position

    def row(self, title):
        self.x, self.y, self.height = 0, self.y + self.height, 0
        self.panels.append(
            {
                "id": len(self.panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": 24, "x": 0, "y": self.y},
            }
        )
        self.y += 1

    def _panel(self, kind, title, description, scale, targets, size, options, custom, links, more=None):
        scale = dict(scale)
        defaults = {
            "unit": scale.pop("unit"),
            "min": 0,
            **({"max": scale.pop("max")} if "max" in scale else {}),
            "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"},
            "thresholds": {"mode": "absolute", "steps": scale.pop("thresholds")},
            "mappings": [],
            "links": links,
            "custom": custom,
            **(more or {}),
        }
        self.panels.append(
            {
                "id": len(self.panels) + 1,
                "type": kind,
                "title": title,
                "description": description,
                "datasource": DATASOURCE,
                "gridPos": self._place(*size),
                "targets": [
                    {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "editorMode": "code", **target}
                    for number, target in enumerate(targets)
                ],
                "fieldConfig": {"defaults": defaults, "overrides": []},
                "options": options,
            }
        )
        return self.panels[-1]

    def stat(self, title, description, scale, expression, legend="", *, nothing=None, width=4):
        """With a `legend`, the name of the series stands above its value. `nothing` are the words that stand where
        there is no value."""
        return self._panel(
            "stat",
            title,
            description,
            scale,
            [{"expr": expression, "legendFormat": legend, "instant": True, "range": False}],
            (width, 4),
            {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "orientation": "auto",
                "textMode": "value_and_name" if legend else "auto",
                "colorMode": "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "showPercentChange": False,
                "wideLayout": True,
                "percentChangeColorMode": "standard",
            },
            {},
            [],
            {"noValue": nothing} if nothing else {},
        )

    def graph(self, title, description, scale, queries, *, links=(), width=12, height=8, stacked=False, lines=True):
        """`queries` are pairs of an expression and a legend. `lines` draws the thresholds."""
        neutral = len(scale["thresholds"]) == 1
        return self._panel(
            "timeseries",
            title,
            description,
            scale,
            [{"expr": expression, "legendFormat": legend, "range": True} for expression, legend in queries],
            (width, height),
            {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            {
                "drawStyle": "line",
                "lineWidth": 1,
                "fillOpacity": 20 if stacked else 0,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
                "thresholdsStyle": {"mode": "off" if neutral or not lines else "dashed"},
            },
            list(links),
        )

    def heatmap(self, title, description, unit, expression, *, width=12, height=8):
        panel = self._panel(
            "heatmap",
            title,
            description,
            {"unit": "short", "thresholds": steps()},
            [{"expr": expression, "legendFormat": "{{le}}", "format": "heatmap", "range": True}],
            (width, height),
            {
                "calculate": False,
                "cellGap": 1,
                "cellValues": {"unit": "short"},
                "color": {
                    "mode": "scheme",
                    "scheme": "Oranges",
                    "exponent": 0.5,
                    "fill": "dark-orange",
                    "reverse": False,
                    "steps": 64,
                },
                "exemplars": {"color": "rgba(255,0,255,0.7)"},
                "filterValues": {"le": 1e-9},
                "legend": {"show": True},
                "rowsFrame": {"layout": "auto"},
                "showValue": "never",
                "tooltip": {"mode": "single", "yHistogram": False},
                "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
            },
            {"hideFrom": {"legend": False, "tooltip": False, "viz": False}, "scaleDistribution": {"type": "linear"}},
            [],
        )
        return panel

    def table(self, title, description, scale, expression, columns, *, links=(), width=12, height=8):
        """`columns` are the labels to show, in order; the value is last."""
        panel = self._panel(
            "table",
            title,
            description,
            scale,
            [{"expr": expression, "legendFormat": "", "format": "table", "instant": True, "range": False}],
            (width, height),
            {"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": "Value", "desc": True}]},
            {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
            list(links),
        )
        panel["fieldConfig"]["overrides"] = [
            {
                "matcher": {"id": "byName", "options": "Value"},
                "properties": [{"id": "custom.cellOptions", "value": {"type": "color-text"}}],
            },
        ]
        order = {name: number for number, name in enumerate([*columns, "Value"])}
        panel["transformations"] = [
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": {}}}
        ]
        return panel

    def states(self, title, description, scale, expression, legend, *, links=(), width=12, height=8):
        return self._panel(
            "state-timeline",
            title,
            description,
            scale,
            [{"expr": expression, "legendFormat": legend, "range": True}],
            (width, height),
            {
                "alignValue": "left",
                "mergeValues": True,
                "perPage": 20,
                "rowHeight": 0.8,
                "showValue": "never",
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
                "tooltip": {"mode": "single", "sort": "none"},
            },
            {"fillOpacity": 70, "lineWidth": 0},
            list(links),
        )

    def model(self):
        following = [page for page in [*CHAIN, PIPELINE] if page[0] != self.uid]
        return {
            "uid": self.uid,
            "title": f"Callsight / {self.title}",
            "description": self.description,
            "tags": ["callsight"],
            "schemaVersion": 41,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": "now-30m", "to": "now"},
            "refresh": "10s",
            "fiscalYearStartMonth": 0,
            "weekStart": "",
            "liveNow": False,
            "templating": {"list": [DATASOURCE_VARIABLE, JOB, *self.variables]},
            "annotations": {"list": [ROLLOUTS, ALERTS]},
            "links": [
                {
                    "title": title,
                    "type": "link",
                    "url": f"/d/{uid}",
                    "tooltip": f"{title}, at the same time and place",
                    "icon": "dashboard",
                    "tags": [],
                    "asDropdown": False,
                    "targetBlank": False,
                    "includeVars": True,
                    "keepTime": True,
                }
                for uid, title in following
            ],
            "panels": self.panels,
        }
