"""Draws docs/growth.svg from docs/growth.csv, which `./dev bench --bench growth` prints: python3 docs/growth.py"""

import csv
import pathlib

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT, LEFT, TOP, GAP = 230, 150, 60, 40, 60
CURVES = [
    ("sessions", "live sessions, meetings of 4"),
    ("parties", "parties of a meeting, 1,000 sessions"),
    ("identifier_bytes", "bytes of an identifier"),
    ("shards", "shards of 20,000 sessions"),
]
ROWS = [
    ("bytes_a_series", "memory, bytes a series"),
    ("fold_us_a_frame", "decode and fold, µs a frame"),
    ("scrape_s", "scrape, s of a processor"),
]


def panel(points, x, y, title, unit):
    """One small chart: straight lines between points, from zero."""
    widest = max(px for px, _ in points)
    highest = max(py for _, py in points) or 1
    place = [(x + px / widest * WIDTH, y + HEIGHT - py / highest * HEIGHT * 0.92) for px, py in points]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in place)
    parts = [
        f'<path d="M{x} {y}V{y + HEIGHT}H{x + WIDTH}" class="axis"/>',
        f'<polyline points="{line}"/>',
        f'<text x="{x}" y="{y - 6}">{unit}</text>',
        f'<text x="{x + WIDTH}" y="{y + HEIGHT + 30}" class="end">{title}</text>',
    ]
    for (px, py), (real_x, real_y) in zip(place, points):
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5"><title>{real_x:g}: {real_y:g}</title></circle>')
    first, last = points[0], points[-1]
    for (px, py), (real_x, real_y) in ((place[0], first), (place[-1], last)):
        parts.append(f'<text x="{px:.1f}" y="{y + HEIGHT + 14}" class="middle">{real_x:g}</text>')
        parts.append(f'<text x="{px:.1f}" y="{py - 7:.1f}" class="middle">{real_y:g}</text>')
    return parts


def main():
    with open(HERE / "growth.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    width = LEFT + len(CURVES) * (WIDTH + GAP)
    height = TOP + len(ROWS) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        "<style>text{fill:#333}polyline{fill:none;stroke:#0969da;stroke-width:1.5}circle{fill:#0969da}"
        ".axis{fill:none;stroke:#999}.middle{text-anchor:middle}.end{text-anchor:end}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, (curve, title) in enumerate(CURVES):
        for row, (key, unit) in enumerate(ROWS):
            points = [(float(r["x"]), float(r[key])) for r in rows if r["curve"] == curve]
            parts += panel(points, LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP), title, unit)
    (HERE / "growth.svg").write_text("\n".join(parts + ["</svg>", ""]), encoding="utf-8")


main()
