"""Every call of tritonclient (http and grpc), or of the kserve client (REST), straight to the model worker.

    interop.py triton HTTP_ADDRESS      for example 127.0.0.1:9001; gRPC is on the same port
    interop.py kserve HTTP_ADDRESS

Prints one line for each call, and exits with 1 when any has failed. tests/worker/run interop installs the clients, starts
a worker and runs both.
"""

import asyncio
import sys

import numpy

ROWS = numpy.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=numpy.float32)
COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
NAMES = [b"setosa", b"virginica"]

failed = 0


def check(name, call):
    """Runs one call and says whether it did what it should."""
    global failed
    try:
        call()
        print(f"ok    {name}")
    except Exception as error:  # whatever a client raises is a failure to report, not to end with
        failed += 1
        print(f"FAIL  {name}: {type(error).__name__}: {error}")


def expect(condition, what=""):
    if not condition:
        raise AssertionError(what)


def refused(call, error_type, text):
    """The call must be refused in words that the client can read."""
    try:
        call()
    except error_type as error:
        expect(text in str(error), f"refused with {error}")
        return
    raise AssertionError("not refused")


def triton(address):
    import tritonclient.grpc as grpc
    import tritonclient.http as http
    from tritonclient.utils import InferenceServerException

    for module in (http, grpc):
        kind = module.__name__.rsplit(".", 1)[-1]
        client = module.InferenceServerClient(address)
        as_json = {"as_json": True} if module is grpc else {}

        def inputs(datatype="FP32", data=ROWS, **options):
            tensor = module.InferInput("features", list(data.shape), datatype)
            tensor.set_data_from_numpy(data, **options)
            return [tensor]

        def named():
            tensors = []
            for index, name in enumerate(COLUMNS):
                column = numpy.ascontiguousarray(ROWS[:, index : index + 1], dtype=numpy.float64)
                tensor = module.InferInput(name, [2, 1], "FP64")
                tensor.set_data_from_numpy(column)
                tensors.append(tensor)
            return tensors

        def right(result):
            expect(result.as_numpy("label").flatten().tolist() == [0, 2], "label")
            # As JSON they are text, as octets bytes.
            names = [name if isinstance(name, bytes) else name.encode() for name in result.as_numpy("class_name").flatten()]
            expect(names == NAMES, names)
            sums = result.as_numpy("probabilities").sum(axis=1)
            expect(numpy.allclose(sums, 1), "probabilities")

        def output(name, **options):
            return [module.InferRequestedOutput(name, **options)]

        def infer(**options):
            options.setdefault("inputs", inputs())
            return client.infer("iris", **options)

        def asynchronous():
            if module is http:
                right(client.async_infer("iris", inputs()).get_result())
                return
            import queue

            answers = queue.Queue()
            client.async_infer("iris", inputs(), lambda result, error: answers.put((result, error)))
            result, error = answers.get(timeout=10)
            expect(error is None, error)
            right(result)

        def texts():
            data = numpy.array([["I love it"], ["I hate it"]], dtype=object)
            tensor = module.InferInput("text", [2, 1], "BYTES")
            tensor.set_data_from_numpy(data)
            names = client.infer("sentiment", [tensor]).as_numpy("class_name").flatten().tolist()
            expect(names == [b"positive", b"negative"], names)

        check(f"{kind} is_server_live", lambda: expect(client.is_server_live()))
        check(f"{kind} is_server_ready", lambda: expect(client.is_server_ready()))
        check(f"{kind} is_model_ready", lambda: expect(client.is_model_ready("iris") and client.is_model_ready("iris", "1")))
        check(f"{kind} is_model_ready of an unknown one", lambda: expect(not client.is_model_ready("rose")))
        check(
            f"{kind} get_server_metadata",
            lambda: expect("binary_tensor_data" in client.get_server_metadata(**as_json)["extensions"]),
        )
        check(
            f"{kind} get_model_metadata",
            lambda: expect(client.get_model_metadata("iris", **as_json)["inputs"][0]["datatype"] == "FP64"),
        )

        def index():
            found = client.get_model_repository_index(**as_json)
            models = found["models"] if module is grpc else found
            expect({"iris", "sentiment"} <= {model["name"] for model in models}, models)

        check(f"{kind} get_model_repository_index", index)
        check(f"{kind} infer", lambda: right(infer()))
        check(f"{kind} infer FP64", lambda: right(infer(inputs=inputs("FP64", ROWS.astype(numpy.float64)))))
        check(f"{kind} infer FP16", lambda: infer(inputs=inputs("FP16", ROWS.astype(numpy.float16))))
        check(f"{kind} infer INT32", lambda: infer(inputs=inputs("INT32", numpy.ones((1, 4), numpy.int32))))
        check(f"{kind} infer named", lambda: right(infer(inputs=named())))
        check(f"{kind} infer version and id", lambda: right(infer(model_version="1", request_id="abc")))
        check(f"{kind} infer parameters", lambda: right(infer(priority=1, timeout=10_000_000, parameters={"own": "x"})))
        check(f"{kind} infer texts", texts)
        check(f"{kind} async_infer", asynchronous)

        def one_output():
            result = infer(outputs=output("class_name"))
            expect(result.as_numpy("class_name") is not None and result.as_numpy("label") is None)

        check(f"{kind} infer one output", one_output)
        check(
            f"{kind} infer a thousand rows",
            lambda: expect(len(infer(inputs=inputs("FP32", numpy.repeat(ROWS, 500, axis=0))).as_numpy("label")) == 1000),
        )
        refusals = [
            ("shape", lambda: infer(inputs=inputs("FP32", ROWS[:, :3].copy())), "/inputs/0/shape"),
            ("NaN", lambda: infer(inputs=inputs("FP32", ROWS * numpy.float32("nan"))), "/inputs/0/data/0"),
            ("type", lambda: infer(inputs=inputs("BOOL", ROWS > 0)), "/inputs/0/datatype"),
            ("output", lambda: infer(outputs=output("nothing")), "/outputs/0/name"),
            ("model", lambda: client.infer("rose", inputs()), "no such model"),
            ("version", lambda: infer(model_version="9"), "no such model"),
        ]
        for name, call, text in refusals:
            check(f"{kind} refusal: {name}", lambda call=call, text=text: refused(call, InferenceServerException, text))
        check(f"{kind} load_model is closed", lambda: refused(lambda: client.load_model("iris"), InferenceServerException, ""))
        if module is http:
            check("http infer JSON both ways", lambda: right(infer(inputs=inputs(binary_data=False), outputs=[
                http.InferRequestedOutput(name, binary_data=False) for name in ("label", "class_name", "probabilities")])))
            check("http infer gzip", lambda: right(infer(request_compression_algorithm="gzip")))
            check("http infer deflate", lambda: right(infer(request_compression_algorithm="deflate")))
            check("http infer asks for gzip", lambda: right(infer(response_compression_algorithm="gzip")))
            check("http get_model_config", lambda: expect(client.get_model_config("iris")["name"] == "iris"))
            check(
                "http get_inference_statistics",
                lambda: expect(client.get_inference_statistics("iris")["model_stats"][0]["inference_count"] > 0),
            )
        else:
            check("grpc infer gzip", lambda: right(infer(compression_algorithm="gzip")))
            check("grpc client_timeout", lambda: right(infer(client_timeout=10)))
        client.close()


def kserve(address):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    base = f"http://{address}"

    def request(binary):
        tensor = InferInput("features", [2, 4], "FP32")
        tensor.set_data_from_numpy(ROWS, binary_data=binary)
        return InferRequest(model_name="iris", infer_inputs=[tensor])

    async def calls():
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        results = []

        async def call(name, awaitable, verify):
            try:
                results.append((name, await awaitable, verify))
            except Exception as error:
                results.append((name, error, verify))

        await call("is_server_live", client.is_server_live(base), lambda live: expect(live))
        await call("is_server_ready", client.is_server_ready(base), lambda ready: expect(ready))
        await call("is_model_ready", client.is_model_ready(base, "iris"), lambda ready: expect(ready))
        for binary in (False, True):
            def right(response):
                outputs = {output.name: output for output in response.outputs}
                expect(outputs["label"].as_numpy().flatten().tolist() == [0, 2], outputs)

            name = f"infer {'octets' if binary else 'JSON'}"
            await call(name, client.infer(base, request(binary), model_name="iris"), right)
        await client.close()
        return results

    for name, result, verify in asyncio.run(calls()):
        def verified(result=result, verify=verify):
            if isinstance(result, Exception):
                raise result
            verify(result)

        check(f"kserve {name}", verified)


if __name__ == "__main__":
    {"triton": triton, "kserve": kserve}[sys.argv[1]](sys.argv[2])
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)
