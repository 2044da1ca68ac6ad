"""Ways to copy a model that one may only ask. What they know: the four features' ranges, and the three classes."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

CLASSES = 3
# Rows that are asked before anything is known.
FIRST = 50
# How finely a threshold is looked for, in cm.
FINE = 0.01


class Spent(Exception):
    """No further row is answered."""


class Student:
    """Forests of the thief's own: one learns labels and, where numbers are shown, another one shares. Labels are foretold by
    whichever does better on rows that its trees have not seen (out of bag), as a thief can tell without asking."""

    def __init__(self, answers, code=lambda rows: rows, trees=60):
        self.code = code
        rows, labels, shares = code(answers.rows()), answers.labels(), answers.shares()
        several = len(set(labels)) > 1
        how = {"n_estimators": trees, "random_state": 1, "oob_score": several, "n_jobs": 2}
        self.by_label = RandomForestClassifier(**how).fit(rows, labels)
        self.by_share = None if shares is None else RandomForestRegressor(**how).fit(rows, shares)
        self.trusts_shares, self.right = False, 0
        # One thread: the order of a sum decides its last digit.
        self.by_label.n_jobs = 1
        if self.by_share is not None:
            self.by_share.n_jobs = 1
        if several:
            unseen = np.nan_to_num(self.by_label.oob_decision_function_).argmax(axis=1)
            self.right = np.sum(self.by_label.classes_[unseen] == labels)
        if several and self.by_share is not None:
            by_share = np.sum(self.by_share.oob_prediction_.argmax(axis=1) == labels)
            self.trusts_shares = by_share > self.right
            self.right = max(self.right, by_share)

    def shares(self, rows):
        if self.by_share is not None:
            return self.by_share.predict(self.code(rows))
        shares = np.zeros((len(rows), CLASSES))
        shares[:, self.by_label.classes_] = self.by_label.predict_proba(self.code(rows))
        return shares

    def labels(self, rows):
        return self.shares(rows).argmax(axis=1) if self.trusts_shares else self.by_label.predict(self.code(rows))


class RandomRows:
    """A student of rows that chance chooses."""

    title = "student, random rows"

    def __init__(self, low, high):
        self.low, self.high = low, high
        self.random = np.random.default_rng(1)

    def draw(self, count):
        return self.random.uniform(self.low, self.high, (count, len(self.low)))

    def go(self, answers):
        answers.ask(self.draw(100))

    def copy(self, answers):
        return Student(answers)


class UnsureRows(RandomRows):
    """A student that asks where it is least sure: where its two likeliest classes are closest."""

    title = "student, uncertain rows"

    def go(self, answers):
        known = len(answers)
        if known < FIRST:
            return answers.ask(self.draw(FIRST))
        count = max(10, known // 6)
        candidates = self.draw(1000 + 4 * count)
        first, second = np.sort(Student(answers, trees=30).shares(candidates), axis=1)[:, :-3:-1].T
        # Not the very least sure alone: they lie side by side.
        unsure = np.argsort(first - second, kind="stable")[: 3 * count]
        answers.ask(candidates[self.random.choice(unsure, count, replace=False)])


class PathFinding(RandomRows):
    """Finds the thresholds at which a tree decides, by bisection along lines, one feature at a time (Tramèr et al., Stealing
    Machine Learning Models via Prediction APIs, 2016, §4), and fills the cells between them. That paper tells leaves apart
    by their confidence; here any change of what is shown betrays a threshold. Half of the rows go into lines, a few at first."""

    title = "path finding"

    def __init__(self, low, high):
        super().__init__(low, high)
        self.found = [[] for _ in low]
        self.lines = 1

    def thresholds(self):
        return sum(map(len, self.found))

    def line(self, base, feature):
        """Yields a row and is sent what is shown for it, until no change on the line is unexplained."""
        found = self.found[feature]

        def at(place):
            row = base.copy()
            row[feature] = place
            return row

        places = np.linspace(self.low[feature], self.high[feature], 5)
        shown = []
        for place in places:
            shown.append((yield at(place)))
        open_parts = list(zip(places, shown, places[1:], shown[1:]))
        while open_parts:
            left, at_left, right, at_right = open_parts.pop()
            if at_left == at_right or (right - left < 6 * FINE and any(left < each < right for each in found)):
                continue
            middle = (left + right) / 2
            if right - left < FINE:
                if all(abs(middle - each) > 2 * FINE for each in found):
                    found.append(middle)
                continue
            at_middle = yield at(middle)
            open_parts += [(left, at_left, middle, at_middle), (middle, at_middle, right, at_right)]

    def go(self, answers):
        if len(answers) < FIRST:
            answers.ask(self.draw(FIRST))
        before = len(answers)
        lines = [self.line(base, feature) for feature in range(len(self.low)) for base in self.draw(self.lines)]
        self.lines = min(4, self.lines + 1)
        waiting = [(line, next(line)) for line in lines]
        while waiting:
            shown = answers.ask(np.array([row for _, row in waiting]))
            still = []
            for (line, _), each in zip(waiting, shown):
                try:
                    still.append((line, line.send(each)))
                except StopIteration:
                    pass
            waiting = still
        answers.ask(self.draw(len(answers) - before))

    def copy(self, answers):
        thresholds = [np.sort(each) for each in self.found]

        def code(rows):
            cells = [np.searchsorted(each, column) if len(each) else column for each, column in zip(thresholds, rows.T)]
            return np.stack(cells, axis=1)

        # While few thresholds are known the cells are too coarse, which it can tell.
        return max(Student(answers, code), Student(answers), key=lambda student: student.right)


ATTACKS = (PathFinding, RandomRows, UnsureRows)
