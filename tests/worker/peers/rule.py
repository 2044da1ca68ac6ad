"""The forest in ONNX Runtime, on one thread: more would only cost."""

import os
import sys

# Where Triton's Python finds it; after its own packages.
sys.path.append(os.environ["ONNXRUNTIME"])

import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["FOREST"], options, providers=["CPUExecutionProvider"])
NAME = session.get_inputs()[0].name


def predict(rows):
    """Labels and probabilities of an array of rows."""
    return session.run(None, {NAME: rows})
