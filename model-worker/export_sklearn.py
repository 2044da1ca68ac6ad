"""Writes a fitted scikit-learn RandomForestClassifier, ExtraTreesClassifier or DecisionTreeClassifier as JSON that
`model-worker import` makes an artifact of:

    from export_sklearn import export
    export(forest, X_train, X_test, y_test, names, "forest.json")

    model-worker import forest.json --name NAME --out models/NAME/1.model

The test rows become the artifact's metrics and golden rows, so they must not have been trained on. Run as a program it
trains a forest on scikit-learn's iris data, as an example: `python3 export_sklearn.py iris.json`.
"""

import json
import sys

import numpy
import sklearn


def export(forest, train, test, labels, names, path, description="A scikit-learn forest"):
    """`train`, `test`: arrays of numbers; `labels`: the classes of `test`; `names`: of the features, in order."""
    train, test = numpy.asarray(train, dtype=float), numpy.asarray(test, dtype=float)
    if forest.n_outputs_ != 1:
        raise ValueError("the worker takes forests of one output")
    classes = [str(name) for name in forest.classes_]
    trees = [tree.tree_ for tree in getattr(forest, "estimators_", [forest])]
    content = {
        "format": "modelgate-sklearn-forest-1",
        "scikit_learn": sklearn.__version__,
        "description": description,
        "features": [str(name) for name in names],
        "classes": classes,
        "minimum": train.min(axis=0).tolist(),
        "maximum": train.max(axis=0).tolist(),
        "training_rows": len(train),
        "trees": [
            {
                "feature": tree.feature.tolist(),
                "threshold": tree.threshold.tolist(),
                "left": tree.children_left.tolist(),
                "right": tree.children_right.tolist(),
                "value": tree.value[:, 0, :].tolist(),
            }
            for tree in trees
        ],
        "test": {
            "rows": test.tolist(),
            "labels": [classes.index(str(label)) for label in labels],
            "probabilities": forest.predict_proba(test).tolist(),
        },
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, allow_nan=False)


def main():
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    data = load_iris()
    labels = data.target_names[data.target]
    train, test, train_labels, test_labels = train_test_split(
        data.data, labels, test_size=0.2, random_state=0, stratify=labels
    )
    forest = RandomForestClassifier(100, random_state=0).fit(train, train_labels)
    names = [name.removesuffix(" (cm)").replace(" ", "_") for name in data.feature_names]
    export(forest, train, test, test_labels, names, sys.argv[1])


if __name__ == "__main__":
    main()
