"""Line charts in SVG, readable on light and dark pages."""

import math

COLOURS = {"full": "#d9480f", "rounded": "#b07aa1", "top-1": "#59a14f", "label": "#4c78a8"}
WIDTH, PANEL, GAP, LEFT, TOP, HEIGHT = 760, 200, 40, 40, 76, 150
# Title, which number of a copy, and the numbers that the scale begins and ends with, in percent, bottom first.
SCALES = (
    ("labels that agree with the model's, %", 0, (90, 100)),
    ("how far probabilities are from the model's, points", 2, (30, 0)),
)


def draw(results, quota):
    """A row of panels for each scale: one panel for each attack, one line for each rule. Higher is a better copy."""
    rows = list(next(iter(results.values()))[0])
    attacks = list(dict.fromkeys(attack for attack, _ in results))
    shapes = []

    def text(x, y, words, rest=""):
        shapes.append(f'<text x="{x:.1f}" y="{y:.1f}"{rest}>{words}</text>')

    for number, (rule, colour) in enumerate(COLOURS.items()):
        at = LEFT + number * 100
        shapes.append(f'<rect x="{at}" y="24" width="14" height="4" fill="{colour}"/>')
        text(at + 20, 30, rule)
    for at_row, (title, which, (bottom, top)) in enumerate(SCALES):
        upper = TOP + at_row * (HEIGHT + 66)
        lower = upper + HEIGHT
        ticks = [bottom + (top - bottom) * part / 3 for part in range(4)] if top == 0 else [90, 92, 94, 96, 98, 100]

        def y(value, upper=upper, bottom=bottom, top=top):
            part = (value - bottom) / (top - bottom)
            return upper + (1 - min(1, max(0, part))) * HEIGHT

        text(0, upper - 26, title, ' class="title"')
        for tick in ticks:
            text(LEFT - 6, y(tick) + 4, f"{tick:.0f}", ' text-anchor="end"')
        for panel, attack in enumerate(attacks):
            left = LEFT + panel * (PANEL + GAP)

            def x(count, left=left):
                return left + math.log(count / rows[0]) / math.log(rows[-1] / rows[0]) * PANEL

            text(left, upper - 8, attack)
            for tick in ticks:
                shapes.append(f'<path d="M{left} {y(tick):.1f}h{PANEL}" class="grid"/>')
            shapes.append(f'<path d="M{x(quota):.1f} {upper}v{HEIGHT}" class="limit"/>')
            for count in (rows[0], quota, 1000, rows[-1]):
                text(x(count), lower + 16, count, ' text-anchor="middle"')
            for (name, rule), (curve, *_) in results.items():
                if name == attack:
                    points = " ".join(f"{x(count):.1f},{y(100 * copy[which]):.1f}" for count, copy in curve.items())
                    line = f'fill="none" stroke="{COLOURS[rule]}" stroke-width="2"'
                    shapes.append(f'<polyline points="{points}" {line}/>')
    height = TOP + len(SCALES) * (HEIGHT + 66) - 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="How true stolen copies of the model are, by rows asked">\n'
        "<style>text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600}.grid{stroke:#9aa0a6;opacity:.4}"
        ".limit{stroke:#9aa0a6;stroke-width:2;stroke-dasharray:4 3}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>\n"
        f'<text x="0" y="14">Stolen copies by rows asked; higher is a better copy; dashed: a day under a limit of '
        f"{quota} rows</text>\n" + "\n".join(shapes) + "\n</svg>\n"
    )
