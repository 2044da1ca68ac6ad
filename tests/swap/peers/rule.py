"""The model that the servers of this folder serve where they have none of their own: iris by two thresholds."""

CLASSES = ["setosa", "versicolor", "virginica"]


def label(row):
    """The class of a row of four lengths in centimetres."""
    petal_length, petal_width = row[2], row[3]
    return 0 if petal_length < 2.45 else 1 if petal_width < 1.75 else 2


def probabilities(row):
    chosen = label(row)
    return [0.9 if index == chosen else 0.05 for index in range(3)]
