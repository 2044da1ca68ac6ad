"""A line chart in SVG, readable on light and dark pages."""

import math

COLOURS = {"full": "#d9480f", "rounded": "#b07aa1", "top-1": "#59a14f", "label": "#4c78a8"}
WIDTH, PANEL, GAP, LEFT, TOP, HEIGHT = 760, 200, 40, 40, 60, 200
# The least agreement that is shown.
LEAST = 0.8


def draw(results, quota):
    """One panel for each attack, one line for each rule."""
    rows = list(next(iter(results.values()))[0])
    attacks = list(dict.fromkeys(attack for attack, _ in results))

    def x(panel, count):
        part = math.log(count / rows[0]) / math.log(rows[-1] / rows[0])
        return LEFT + panel * (PANEL + GAP) + part * PANEL

    def y(share):
        return TOP + (1 - max(0, share - LEAST) / (1 - LEAST)) * HEIGHT

    bottom = TOP + HEIGHT
    shapes = []
    for number, (rule, colour) in enumerate(COLOURS.items()):
        at = LEFT + number * 100
        shapes.append(
            f'<rect x="{at}" y="24" width="14" height="4" fill="{colour}"/><text x="{at + 20}" y="30">{rule}</text>'
        )
    for tenth in range(round(LEAST * 10), 11):
        at = y(tenth / 10)
        shapes.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10 * tenth}</text>')
    for panel, attack in enumerate(attacks):
        left, right = x(panel, rows[0]), x(panel, rows[-1])
        shapes.append(f'<text x="{left:.1f}" y="{TOP - 8}" class="title">{attack}</text>')
        for tenth in range(round(LEAST * 10), 11):
            at = y(tenth / 10)
            shapes.append(f'<path d="M{left:.1f} {at:.1f}H{right:.1f}" class="grid"/>')
        shapes.append(f'<path d="M{x(panel, quota):.1f} {TOP}V{bottom}" class="limit"/>')
        for count in (rows[0], quota, 1000, rows[-1]):
            shapes.append(
                f'<text x="{x(panel, count):.1f}" y="{bottom + 16}" text-anchor="middle">{count}</text>'
            )
        for (name, rule), (curve, *_) in results.items():
            if name == attack:
                points = " ".join(f"{x(panel, count):.1f},{y(share):.1f}" for count, (share, *_) in curve.items())
                shapes.append(
                    f'<polyline points="{points}" fill="none" stroke="{COLOURS[rule]}" stroke-width="2"/>'
                )
    height = bottom + 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="Agreement of stolen copies with the model, by rows asked">\n'
        "<style>text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600}.grid{stroke:#9aa0a6;opacity:.4}"
        ".limit{stroke:#9aa0a6;stroke-width:2;stroke-dasharray:4 3}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>\n"
        f'<text x="0" y="14">Agreement with the model in percent, by rows asked; dashed: a day\'s rows under a limit of '
        f"{quota}</text>\n" + "\n".join(shapes) + "\n</svg>\n"
    )
