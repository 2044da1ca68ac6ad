"""The worker's forests beside scikit-learn's, on the same splits of scikit-learn's own data sets.

    accuracy.py MODEL_WORKER [SPLITS]

Both are trained on the same rows with 100 trees and measured on the same held-out ones. Exits with 1 when the worker's mean
accuracy is more than one point below scikit-learn's on any data set. tests/worker/run accuracy installs scikit-learn.
"""

import csv
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedShuffleSplit

SETS = [("iris", load_iris, 20), ("wine", load_wine, 10), ("breast cancer", load_breast_cancer, 5)]


def write(path, names, rows, labels):
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*names, "class"])
        table.writerows([*map(repr, map(float, row)), label] for row, label in zip(rows, labels))


def worker(binary, folder, names, split, data, labels):
    train, test = split
    write(folder / "train.csv", names, data[train], labels[train])
    write(folder / "test.csv", names, data[test], labels[test])
    model = str(folder / "x.model")
    command = [binary, "train", "csv", str(folder / "train.csv"), "--target", "class", "--folds", "2", "--out", model]
    subprocess.run(command, check=True, capture_output=True)
    command = [binary, "evaluate", model, str(folder / "test.csv"), "--target", "class", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main(binary, splits=None):
    below = False
    print(f"{'data':<14}{'splits':>7}{'worker':>10}{'sklearn':>10}{'log loss':>11}{'sklearn':>10}")
    for name, load, usual in SETS:
        bunch = load()
        names = [str(feature) for feature in bunch.feature_names]
        labels = bunch.target_names[bunch.target]
        count = int(splits or usual)
        ours, theirs = [], []
        shuffle = StratifiedShuffleSplit(n_splits=count, test_size=0.2, random_state=0)
        with tempfile.TemporaryDirectory() as folder:
            for number, split in enumerate(shuffle.split(bunch.data, labels)):
                result = worker(binary, pathlib.Path(folder), names, split, bunch.data, labels)
                ours.append((result["accuracy"], result["log_loss"]))
                train, test = split
                forest = RandomForestClassifier(100, random_state=number, n_jobs=2).fit(bunch.data[train], labels[train])
                probabilities = numpy.clip(forest.predict_proba(bunch.data[test]), 0.001, 1)
                loss = log_loss(labels[test], probabilities / probabilities.sum(axis=1, keepdims=True))
                theirs.append((forest.score(bunch.data[test], labels[test]), loss))
        ours, theirs = numpy.mean(ours, axis=0), numpy.mean(theirs, axis=0)
        print(f"{name:<14}{count:>7}{ours[0]:>10.4f}{theirs[0]:>10.4f}{ours[1]:>11.3f}{theirs[1]:>10.3f}", flush=True)
        below |= ours[0] < theirs[0] - 0.01
    sys.exit(1 if below else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
