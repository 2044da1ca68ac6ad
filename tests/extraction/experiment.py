"""Steals the iris forest and prints how far each thief came. Arguments: where the programs are, and --save."""

import os
import sys
import tempfile
import time

import numpy as np
from sklearn.datasets import load_iris

import chart
from attacks import ATTACKS, Spent
from service import FEATURES, LABELS, RULES, Answers, Service

# Rows after which a copy is made and compared.
MARKS = (50, 100, 250, 500, 1000, 2000, 4000)
# Rows a day, where there is a limit.
QUOTA = 100
HELD_OUT = 2000
GOALS = (0.95, 0.99)

HERE = os.path.dirname(os.path.abspath(__file__))
README = os.path.join(HERE, "..", "..", "README.md")
BEGIN, END = "<!-- extraction:begin -->\n", "<!-- extraction:end -->\n"


class Judge:
    """Knows what the model says of rows that no thief asks."""

    def __init__(self, connection, low, high):
        points = np.random.default_rng(0).uniform(low, high, (HELD_OUT, len(low)))
        self.points, self.flowers = Answers(connection, (), None), Answers(connection, (), None)
        self.points.ask(points)
        self.flowers.ask(load_iris().data)

    def compare(self, copy):
        """For which share of points and of flowers a copy says the same, and how far its probabilities are from the model's:
        half the sum of their differences, on average over the points."""
        same = (float(np.mean(copy.labels(each.rows()) == each.labels())) for each in (self.points, self.flowers))
        differences = np.abs(copy.shares(self.points.rows()) - self.points.shares())
        return (*same, float(differences.sum(axis=1).mean() / 2))


def steal(attack, answers):
    """Lets a thief ask until it is spent."""
    try:
        while True:
            attack.go(answers)
    except Spent:
        return


def percent(share):
    return f"{100 * share:.1f}"


def rows_to(goal, curve):
    """The rows from which on every copy reaches it."""
    below = [rows for rows, (points, *_) in curve.items() if points < goal]
    return next((rows for rows in curve if rows > max(below, default=0)), None)


def table(results):
    head = ["attack", "shown", *(f"{rows:,}" for rows in MARKS), "flowers", "off by", "thresholds"]
    head += [f"{goal:.0%} after" for goal in GOALS] + ["admitted"]
    lines = [head, ["---", "---"] + ["--:"] * (len(head) - 2)]
    for (attack, rule), (curve, thresholds, admitted, limited) in results.items():
        assert limited == curve[admitted], f"{attack}, {rule}: a limit changes when a thief is answered, not what"
        goals = []
        for goal in GOALS:
            rows = rows_to(goal, curve)
            days = rows and -(-rows // QUOTA)
            goals.append(f"{rows:,} ({days} day{'' if days == 1 else 's'})" if rows else "–")
        points = [percent(each) for each, *_ in curve.values()]
        _, flowers, off = curve[MARKS[-1]]
        lines.append([attack, rule, *points, percent(flowers), percent(off), thresholds, *goals, str(admitted)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main():
    programs, save = os.path.abspath(sys.argv[1]), "--save" in sys.argv[2:]
    began = time.monotonic()
    thieves = {(attack, rule): f"thief-{number}-{rule}" for number, attack in enumerate(ATTACKS) for rule in RULES}
    results = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        Service(programs, directory, QUOTA, ["judge", *thieves.values()]) as service,
    ):
        card = service.card()
        assert tuple(each["name"] for each in card["features"]) == FEATURES and tuple(card["classes"]) == LABELS
        ranges = [each["training_range"] for each in card["features"]]
        low, high = (np.array([each[end] for each in ranges]) for end in ("minimum", "maximum"))
        judge = Judge(service.connect("judge", "/full"), low, high)
        for (attack, rule), key in thieves.items():
            curve = {}
            thief = attack(low, high)

            def reached(rows, answers, thief=thief, curve=curve):
                curve[rows] = judge.compare(thief.copy(answers))

            steal(thief, Answers(service.connect(key, f"/{rule}"), MARKS, reached))
            thresholds = str(thief.thresholds()) if hasattr(thief, "thresholds") else ""
            # The same again, until the gateway says that it is enough.
            thief = attack(low, high)
            answers = Answers(service.connect(key, f"/{rule}-limited"), (), None)
            steal(thief, answers)
            limited = judge.compare(thief.copy(answers))
            results[attack.title, rule] = (curve, thresholds, len(answers), limited)
            print(f"{time.monotonic() - began:4.0f} s  {attack.title}, {rule}", file=sys.stderr, flush=True)
    text = (
        f"Agreement with the model in percent, on {HELD_OUT:,} random points within the training range, of a copy made after so many "
        "rows. After the last of them: *flowers*, agreement on the 150 flowers; *off by*, how far the copy's probabilities are from the "
        "model's, in percentage points (total variation); *thresholds*, how many path finding has found. *after*: from which "
        f"of these numbers on it was never less, and the days that `cost = \"rows\"`, `quota = {QUOTA}`, `window = \"1d\"` make of "
        f"it; *admitted*: the rows that this limit let through before the first 429.\n\n{table(results)}"
    )
    print(text)
    if save:
        with open(README, encoding="utf-8") as file:
            before, rest = file.read().split(BEGIN)
        figure = "\n![Stolen copies beside the model, by rows asked](tests/extraction/results.svg)\n"
        with open(README, "w", encoding="utf-8") as file:
            file.write(before + BEGIN + text + figure + END + rest.split(END)[1])
        with open(os.path.join(HERE, "results.svg"), "w", encoding="utf-8") as file:
            file.write(chart.draw(results, QUOTA))


main()
