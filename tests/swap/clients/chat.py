"""openai's client reads a chat as it comes: chat.py ADDRESS CA KEY.

It prints `first` when it holds the first part of the answer; only then is the rest sent (peers/chat.py).
"""

import sys

import httpx
from calls import check, expect
from openai import AuthenticationError, OpenAI

ADDRESS, CA, KEY = sys.argv[1:]


def client(key):
    return OpenAI(
        base_url=f"https://{ADDRESS}/v1",
        api_key="not-used",
        default_headers={"X-API-Key": key} if key else None,
        http_client=httpx.Client(verify=CA),
        max_retries=0,
        timeout=20,
    )


def ask(key):
    return client(key).chat.completions.create(model="m", messages=[{"role": "user", "content": "count"}], stream=True)


def streamed():
    words = []
    for chunk in ask(KEY):
        words.append(chunk.choices[0].delta.content or "")
        if len(words) == 1:
            print("first", flush=True)
    expect("".join(words) == "one two three", words)


def without_key():
    try:
        ask(None)
    except AuthenticationError:
        return
    raise AssertionError("not refused")


check("chat.completions.create, streamed", streamed)
check("chat.completions.create without a key is refused", without_key)
