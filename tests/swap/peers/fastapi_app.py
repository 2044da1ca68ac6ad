"""A team's own server: FastAPI with what their clients call of the protocol, in JSON and octets, and POST /predict."""

import json

import numpy
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from rule import CLASSES, label, probabilities

app = FastAPI()
TYPES = {"FP32": numpy.float32, "FP64": numpy.float64}
OUTPUTS = [
    {"name": "label", "datatype": "INT64", "shape": [-1, 1]},
    {"name": "class_name", "datatype": "BYTES", "shape": [-1, 1]},
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
]


def wrong(status, text):
    return JSONResponse({"error": text}, status)


@app.get("/v2")
def server():
    return {"name": "own", "version": "1", "extensions": ["binary_tensor_data"]}


@app.get("/v2/health/{what}")
def health(what: str):
    return {"live": True, "ready": True}


@app.post("/v2/repository/index")
def index():
    return [{"name": "iris", "version": "1", "state": "READY"}]


@app.get("/v2/models/{model}")
@app.get("/v2/models/{model}/versions/{version}")
def metadata(model: str, version: str = "1"):
    if (model, version) != ("iris", "1"):
        return wrong(404, "no such model")
    inputs = [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}]
    return {"name": model, "versions": ["1"], "platform": "own", "inputs": inputs, "outputs": OUTPUTS}


@app.get("/v2/models/{model}/ready")
@app.get("/v2/models/{model}/versions/{version}/ready")
def ready(model: str, version: str = "1"):
    return {"name": model, "ready": True} if (model, version) == ("iris", "1") else wrong(404, "no such model")


@app.post("/v2/models/{model}/infer")
@app.post("/v2/models/{model}/versions/{version}/infer")
async def infer(request: Request, model: str, version: str = "1"):
    if (model, version) != ("iris", "1"):
        return wrong(404, "no such model")
    body = await request.body()
    length = int(request.headers.get("inference-header-content-length", len(body)))
    asked = json.loads(body[:length])
    tensor = asked["inputs"][0]
    kind = TYPES[tensor["datatype"]]
    data = numpy.array(tensor["data"], kind) if "data" in tensor else numpy.frombuffer(body[length:], kind)
    rows = data.reshape(tensor["shape"]).tolist()
    found = {
        "label": numpy.array([label(row) for row in rows], numpy.int64),
        "class_name": [CLASSES[label(row)] for row in rows],
        "probabilities": numpy.array([probabilities(row) for row in rows], numpy.float32),
    }
    everywhere = asked.get("parameters", {}).get("binary_data_output", False)
    wanted = asked.get("outputs") or [{"name": output["name"]} for output in OUTPUTS]
    outputs, tail = [], b""
    for output in wanted:
        kind = next(one for one in OUTPUTS if one["name"] == output["name"])
        answer = kind | {"shape": [len(rows), kind["shape"][1]]}
        values = found[output["name"]]
        if output.get("parameters", {}).get("binary_data", everywhere):
            if kind["datatype"] == "BYTES":
                octets = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in values)
            else:
                octets = values.tobytes()
            answer["parameters"] = {"binary_data_size": len(octets)}
            tail += octets
        else:
            answer["data"] = values if isinstance(values, list) else values.flatten().tolist()
        outputs.append(answer)
    head = {"model_name": model, "model_version": "1", "outputs": outputs}
    if "id" in asked:
        head["id"] = asked["id"]
    head = json.dumps(head).encode()
    if not tail:
        return Response(head, media_type="application/json")
    return Response(head + tail, headers={"inference-header-content-length": str(len(head))}, media_type="application/octet-stream")


@app.post("/predict")
def predict(row: dict):
    lengths = [row[name] for name in ("sepal_length", "sepal_width", "petal_length", "petal_width")]
    return {"class": CLASSES[label(lengths)], "probabilities": dict(zip(CLASSES, probabilities(lengths)))}
