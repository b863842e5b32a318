"""Draws docs/growth.svg from docs/growth.csv: python3 docs/growth.py

The table is the output of `./dev bench --bench growth`. Each column of charts varies one size; each row shows one cost.
"""

import csv
import pathlib

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BELOW = 230, 130, 50, 70, 70, 80
CURVES = [
    ("sessions", "Live sessions", "in meetings of four"),
    ("parties", "Parties per meeting", "1,000 sessions"),
    ("identifier_bytes", "Bytes of an identifier", "1,000 sessions, meetings of ten"),
    ("shards", "Shards", "each, of 20,000 sessions in meetings of four"),
]
ROWS = [
    ("bytes_a_series", "memory, bytes per series", 1),
    ("fold_us_a_frame", "decode and fold, µs per frame", 1),
    ("scrape_s", "scrape, ms of CPU time", 1000),
]
STYLE = (
    "text{fill:#333}polyline{fill:none;stroke:#0969da;stroke-width:1.5}circle{fill:#0969da}"
    ".axis{fill:none;stroke:#999}.what{font-weight:600;font-size:13px}.note{fill:#777}.middle{text-anchor:middle}"
)


def number(value):
    """Three significant digits, with thousands separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def text(x, y, words, kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>'


def panel(points, x, y, unit):
    """One small chart: a line through the points, with axes from zero."""
    widest = max(px for px, _ in points)
    highest = max(py for _, py in points) or 1
    place = [(x + px / widest * WIDTH, y + HEIGHT - py / highest * HEIGHT * 0.88) for px, py in points]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in place)
    parts = [
        f'<path d="M{x} {y}V{y + HEIGHT}H{x + WIDTH}" class="axis"/>',
        f'<polyline points="{line}"/>',
        text(x, y - 14, unit),
    ]
    for (px, py), (real_x, real_y) in zip(place, points):
        tip = f"{number(real_x)}: {number(real_y)}"
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5"><title>{tip}</title></circle>')
    for (px, py), (real_x, real_y), aside in ((place[0], points[0], -3), (place[-1], points[-1], 6)):
        parts.append(text(px, y + HEIGHT + 15, number(real_x), "middle"))
        parts.append(text(px + aside, py - 8, number(real_y)))
    return parts


def main():
    with open(HERE / "growth.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    width = LEFT + len(CURVES) * (WIDTH + RIGHT)
    height = TOP + len(ROWS) * (HEIGHT + BELOW) - BELOW // 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="system-ui, Inter, Helvetica, sans-serif" font-size="11">',
        f"<style>{STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, (curve, what, note) in enumerate(CURVES):
        x = LEFT + column * (WIDTH + RIGHT)
        parts += [text(x, 18, what, "what"), text(x, 34, note, "note")]
        for row, (key, unit, scale) in enumerate(ROWS):
            points = [(float(r["x"]), float(r[key]) * scale) for r in rows if r["curve"] == curve]
            parts += panel(points, x, TOP + row * (HEIGHT + BELOW), unit)
    (HERE / "growth.svg").write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


main()
