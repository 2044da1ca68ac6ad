"""The model for Triton's Python backend, which does not read PYTHONPATH."""

import os
import sys

sys.path.append(os.environ["PACKAGES"])

import numpy
import triton_python_backend_utils as backend
from rule import CLASSES, label, probabilities


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = backend.get_input_tensor_by_name(request, "features").as_numpy().tolist()
            tensors = [
                backend.Tensor("label", numpy.array([[label(row)] for row in rows], numpy.int64)),
                backend.Tensor("class_name", numpy.array([[CLASSES[label(row)].encode()] for row in rows], object)),
                backend.Tensor("probabilities", numpy.array([probabilities(row) for row in rows], numpy.float32)),
            ]
            answers.append(backend.InferenceResponse(tensors))
        return answers
