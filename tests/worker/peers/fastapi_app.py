"""A team's own server: FastAPI and ONNX Runtime, the Open Inference Protocol in JSON and octets as far as it is measured."""

import json

import numpy
from fastapi import FastAPI, Request, Response
from rule import predict

app = FastAPI()


@app.get("/v2/health/ready")
async def ready():
    return {"ready": True}


@app.post("/v2/models/iris/infer")
async def infer(request: Request):
    body = await request.body()
    length = int(request.headers.get("inference-header-content-length", len(body)))
    asked = json.loads(body[:length])
    tensor = asked["inputs"][0]
    data = tensor.get("data")
    rows = numpy.frombuffer(body[length:], numpy.float32) if data is None else numpy.array(data, numpy.float32)
    labels, probabilities = predict(rows.reshape(tensor["shape"]))
    found = {"label": ("INT64", labels.reshape(-1, 1)), "probabilities": ("FP32", probabilities)}
    outputs, tail = [], b""
    for wanted in asked["outputs"]:
        kind, values = found[wanted["name"]]
        output = {"name": wanted["name"], "datatype": kind, "shape": list(values.shape)}
        if wanted.get("parameters", {}).get("binary_data"):
            own = values.tobytes()
            output["parameters"] = {"binary_data_size": len(own)}
            tail += own
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    head = json.dumps({"model_name": "iris", "model_version": "1", "outputs": outputs}).encode()
    if not tail:
        return Response(head, media_type="application/json")
    headers = {"inference-header-content-length": str(len(head))}
    return Response(head + tail, headers=headers, media_type="application/octet-stream")
