"""The forest for Triton's Python backend, which does not read PYTHONPATH."""

import os
import sys

sys.path.append(os.environ["PACKAGES"])

import triton_python_backend_utils as backend
from rule import predict


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = backend.get_input_tensor_by_name(request, "features").as_numpy()
            labels, probabilities = predict(rows)
            tensors = [
                backend.Tensor("label", labels.reshape(-1, 1)),
                backend.Tensor("probabilities", probabilities),
            ]
            answers.append(backend.InferenceResponse(tensors))
        return answers
