"""What clients get wrong, sent to a server directly and through the gateway: each says with which status it was answered."""

import http.client
import json
import ssl
import urllib.parse

ROW = [5.1, 3.5, 1.4, 0.2]


def tensor(data=ROW, shape=(1, 4), **members):
    return {"name": "features", "datatype": "FP32", "shape": list(shape), "data": data} | members


def request(*tensors):
    return json.dumps({"inputs": list(tensors)})


def octets():
    head = tensor() | {"parameters": {"binary_data_size": 16}}
    del head["data"]
    return request(head)


GOOD = request(tensor())
JSON = {"Content-Type": "application/json"}
FAULTS = [
    ("JSON that ends early", GOOD[:-4], JSON),
    ("no body", "", JSON),
    ("a member twice", GOOD.replace('"shape"', '"name": "features", "shape"'), JSON),
    ("nested 200 deep", request(tensor("X")).replace('"X"', "[" * 200 + "]" * 200), JSON),
    ("no inputs", "{}", JSON),
    ("a value too few", request(tensor(ROW[:3])), JSON),
    ("three columns", request(tensor(ROW[:3], (1, 3))), JSON),
    ("a text for a number", request(tensor([*ROW[:3], "0.2"])), JSON),
    ("a type that there is not", request(tensor(datatype="FP31")), JSON),
    ("a negative side", request(tensor(shape=(-1, 4))), JSON),
    ("NaN", request(tensor([*ROW[:3], float("nan")])), JSON),
    ("a petal of 1 km", request(tensor([*ROW[:3], 1e5])), JSON),
    ("fewer octets than said", octets() + "x" * 8, {"Inference-Header-Content-Length": str(len(octets()))}),
    ("octets of nobody", GOOD + "x" * 8, {"Inference-Header-Content-Length": str(len(GOOD))}),
]


def status(base, body, head, ca=None, key=None, path="/v2/models/iris/infer"):
    """The status that a body is answered with; "none" where the server hangs up."""
    place = urllib.parse.urlsplit(base)
    if place.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(place.hostname, place.port, context=context, timeout=20)
    else:
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
    try:
        connection.request("POST", path, body, head | ({"X-API-Key": key} if key else {}))
        return str(connection.getresponse().status)
    except (http.client.HTTPException, OSError):
        return "none"
    finally:
        connection.close()
