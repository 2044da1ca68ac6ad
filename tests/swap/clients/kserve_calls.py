"""Every call of the kserve client through the gateway: kserve_calls.py rest|grpc ADDRESS CA KEY LABEL (the output with the class)."""

import asyncio
import sys

import grpc
import httpx
import numpy
from calls import LABELS, ROWS, check, expect
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

KIND, ADDRESS, CA, KEY, LABEL = sys.argv[1:]
BASE = f"https://{ADDRESS}"


def request(binary):
    tensor = InferInput("features", [2, 4], "FP32")
    tensor.set_data_from_numpy(numpy.array(ROWS, dtype=numpy.float32), binary_data=binary)
    return InferRequest(model_name="iris", infer_inputs=[tensor])


def right(response):
    output = next(output for output in response.outputs if output.name == LABEL)
    expect(output.as_numpy().flatten().tolist() == LABELS, output)


async def made(awaitable):
    """What a call comes to: its result, or what it raised."""
    try:
        return await awaitable
    except Exception as error:
        return error


async def calls():
    if KIND == "rest":
        head = {"x-api-key": KEY}
        client = InferenceRESTClient(RESTConfig(protocol="v2", verify=CA))
        yield "is_server_live", await made(client.is_server_live(BASE, headers=head)), expect
        yield "is_server_ready", await made(client.is_server_ready(BASE, headers=head)), expect
        yield "is_model_ready", await made(client.is_model_ready(BASE, "iris", headers=head)), expect
        for binary, name in (False, "infer, JSON"), (True, "infer, octets"):
            yield name, await made(client.infer(BASE, request(binary), model_name="iris", headers=head)), right
        answer = await made(client.infer(BASE, request(False), model_name="iris"))
        yield "infer without a key is refused", None, lambda _: is_refused(answer, httpx.HTTPStatusError, "401")
        await client.close()
        return
    head = (("x-api-key", KEY),)
    with open(CA, "rb") as file:
        client = InferenceGRPCClient(ADDRESS, creds=grpc.ssl_channel_credentials(file.read()))
    yield "is_server_live", await made(client.is_server_live(headers=head)), expect
    yield "is_server_ready", await made(client.is_server_ready(headers=head)), expect
    yield "is_model_ready", await made(client.is_model_ready("iris", headers=head)), expect
    for binary, name in (False, "infer, typed values"), (True, "infer, octets"):
        yield name, await made(client.infer(request(binary), headers=head)), right
    answer = await made(client.infer(request(False)))
    yield "infer without a key is refused", None, lambda _: is_refused(answer, grpc.RpcError, "UNAUTHENTICATED")
    await client.close()


def is_refused(answer, kind, word):
    expect(isinstance(answer, kind) and word in str(answer), answer)


def verified(result, verify):
    if isinstance(result, Exception):
        raise result
    verify(result)


async def main():
    async for name, result, verify in calls():
        check(f"{KIND} {name}", lambda result=result, verify=verify: verified(result, verify))


asyncio.run(main())
