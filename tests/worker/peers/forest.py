"""One forest for every server: 100 trees of scikit-learn on iris, for `model-worker import` and for ONNX Runtime, and the rows
that are asked, with what scikit-learn says of them.

    forest.py DIRECTORY
"""

import json
import pathlib
import sys

import numpy
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

sys.path.append(str(pathlib.Path(__file__).parents[3] / "model-worker"))

from export_sklearn import export

ROWS = 1000


def main(directory):
    data = load_iris()
    train, test, train_labels, labels = train_test_split(data.data, data.target, test_size=0.2, random_state=0, stratify=data.target)
    forest = RandomForestClassifier(100, random_state=0).fit(train, train_labels)
    names = [name.removesuffix(" (cm)").replace(" ", "_") for name in data.feature_names]
    export(forest, train, test, labels, names, directory / "forest.json")
    # Arrays of probabilities, not a list of dictionaries.
    model = to_onnx(forest, train[:1].astype(numpy.float32), options={"zipmap": False})
    (directory / "forest.onnx").write_bytes(model.SerializeToString())
    low, high = train.min(axis=0), train.max(axis=0)
    rows = numpy.random.default_rng(0).uniform(low, high, (ROWS, len(low))).round(1)
    cases = {"rows": rows.tolist(), "labels": forest.predict(rows).tolist(), "probabilities": forest.predict_proba(rows).tolist()}
    (directory / "cases.json").write_text(json.dumps(cases), encoding="utf-8")


main(pathlib.Path(sys.argv[1]))
