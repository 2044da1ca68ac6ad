"""Every call of tritonclient through the gateway: triton.py http|grpc ADDRESS CA KEY LABEL (the output with the class)."""

import queue
import ssl
import sys

import numpy
from calls import LABELS, ROWS, check, expect, refused

KIND, ADDRESS, CA, KEY, LABEL = sys.argv[1:]


def head():
    """A new one for each call: the client leaves what it adds for one call in the dictionary."""
    return {"x-api-key": KEY}


DATA = numpy.array(ROWS, dtype=numpy.float32)

if KIND == "http":
    import tritonclient.http as module

    def context():
        return ssl.create_default_context(cafile=CA)

    client = module.InferenceServerClient(ADDRESS, ssl=True, ssl_context_factory=context)
    as_json = {}
else:
    import tritonclient.grpc as module

    client = module.InferenceServerClient(ADDRESS, ssl=True, root_certificates=CA)
    as_json = {"as_json": True}


def inputs(data=DATA, **options):
    tensor = module.InferInput("features", list(data.shape), "FP32")
    tensor.set_data_from_numpy(data, **options)
    return [tensor]


def outputs(*names, **options):
    return [module.InferRequestedOutput(name, **options) for name in names]


def right(result, name=LABEL):
    labels = result.as_numpy(name)
    expect(labels is not None and labels.flatten().tolist() == LABELS, labels)


def infer(headers=None, **options):
    headers = head() if headers is None else headers
    options.setdefault("inputs", inputs())
    return client.infer("iris", headers=headers, **options)


def named(name, call):
    check(f"{KIND} {name}", call)


def asynchronous():
    if KIND == "http":
        right(client.async_infer("iris", inputs(), headers=head()).get_result())
        return
    answers = queue.Queue()
    client.async_infer("iris", inputs(), lambda result, error: answers.put((result, error)), headers=head())
    result, error = answers.get(timeout=20)
    expect(error is None, error)
    right(result)


def index():
    found = client.get_model_repository_index(headers=head(), **as_json)
    models = found.get("models", []) if KIND == "grpc" else found
    expect("iris" in [model["name"] for model in models], models)


def many():
    data = numpy.ascontiguousarray(numpy.repeat(DATA, 500, axis=0))
    labels = infer(inputs=inputs(data)).as_numpy(LABEL)
    expect(labels.shape[0] == 1000, labels.shape)


def identity():
    result = infer(request_id="abc")
    right(result)
    answer = result.get_response()
    expect((answer.get("id") if KIND == "http" else answer.id) == "abc", answer)


def bytes_by_hand():
    """The body is made and the answer read by the two functions for whoever has a client of HTTP already."""
    import http.client

    body, length = module.InferenceServerClient.generate_request_body(inputs())
    host, port = ADDRESS.split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context())
    fields = head() | {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    connection.request("POST", "/v2/models/iris/infer", body, fields)
    answer = connection.getresponse()
    expect(answer.status == 200, answer.status)
    length = answer.getheader("Inference-Header-Content-Length")
    right(module.InferenceServerClient.parse_response_body(answer.read(), header_length=length and int(length)))


named("is_server_live", lambda: expect(client.is_server_live(headers=head())))
named("is_server_ready", lambda: expect(client.is_server_ready(headers=head())))
named("is_model_ready", lambda: expect(client.is_model_ready("iris", headers=head())))
named("is_model_ready of a version", lambda: expect(client.is_model_ready("iris", "1", headers=head())))
named("is_model_ready of no model", lambda: expect(not client.is_model_ready("rose", headers=head())))
named("get_server_metadata", lambda: expect(client.get_server_metadata(headers=head(), **as_json)["name"]))
named("get_model_metadata", lambda: expect(client.get_model_metadata("iris", headers=head(), **as_json)["name"] == "iris"))
named(
    "get_model_metadata of a version",
    lambda: expect(client.get_model_metadata("iris", "1", headers=head(), **as_json)["name"] == "iris"),
)
named("get_model_repository_index", index)
named("infer", lambda: right(infer()))
named("infer of a version", lambda: right(infer(model_version="1")))
named("infer with an id", identity)
named("infer with parameters", lambda: right(infer(priority=1, timeout=10_000_000, parameters={"own": "x"})))
named("infer of one output", lambda: right(infer(outputs=outputs(LABEL))))
named("infer of 1000 rows", many)
named("async_infer", asynchronous)
if KIND == "http":
    json_only = {"binary_data": False}
    named("infer, JSON both ways", lambda: right(infer(inputs=inputs(**json_only), outputs=outputs(LABEL, **json_only))))
    named("infer, JSON there, octets back", lambda: right(infer(inputs=inputs(**json_only), outputs=outputs(LABEL))))
    named("infer, octets there, JSON back", lambda: right(infer(outputs=outputs(LABEL, **json_only))))
    named("infer, gzip back", lambda: right(infer(response_compression_algorithm="gzip")))
    named("generate_request_body", bytes_by_hand)
    named("infer, gzip there, is refused", lambda: refused(lambda: infer(request_compression_algorithm="gzip"), "415"))
else:
    named("infer, gzip", lambda: right(infer(compression_algorithm="gzip")))
    named("infer with client_timeout", lambda: right(infer(client_timeout=20)))
named("infer of no model is refused", lambda: refused(lambda: client.infer("rose", inputs(), headers=head()), ""))
named("infer without a key is refused", lambda: refused(lambda: infer(headers={}), "credential"))
named("load_model is closed", lambda: refused(lambda: client.load_model("iris", headers=head()), "404", "UNIMPLEMENTED"))
named("unload_model is closed", lambda: refused(lambda: client.unload_model("iris", headers=head()), "404", "UNIMPLEMENTED"))
for name, call in [
    ("get_model_config", lambda: client.get_model_config("iris", headers=head())),
    ("get_inference_statistics", lambda: client.get_inference_statistics("iris", headers=head())),
    ("get_trace_settings", lambda: client.get_trace_settings(headers=head())),
    ("update_log_settings", lambda: client.update_log_settings({"log_info": False}, headers=head())),
    ("get_log_settings", lambda: client.get_log_settings(headers=head())),
    ("get_system_shared_memory_status", lambda: client.get_system_shared_memory_status(headers=head())),
    ("get_cuda_shared_memory_status", lambda: client.get_cuda_shared_memory_status(headers=head())),
    ("register_system_shared_memory", lambda: client.register_system_shared_memory("a", "/a", 8, headers=head())),
    ("unregister_system_shared_memory", lambda: client.unregister_system_shared_memory(headers=head())),
]:
    named(f"{name} is closed", lambda call=call: refused(call, "404", "UNIMPLEMENTED"))
client.close()
