"""Fernet tokens made and read by Python's cryptography, which the gateway's are held to.

`seal` takes `{"keys", "values"}` from its standard input and prints `{"first", "second", "text"}`: every value as its JSON
text, sealed with the first and with the second key, and the first value as it is. `open` takes `{"keys", "tokens", "text"}`
and prints `{"values", "text"}`.
"""

import json
import sys

from cryptography.fernet import Fernet, MultiFernet

given = json.load(sys.stdin)
keys = [Fernet(key) for key in given["keys"]]
if sys.argv[1] == "seal":
    made = [[key.encrypt(json.dumps(value).encode()).decode() for value in given["values"]] for key in keys]
    text = keys[0].encrypt(given["values"][0].encode()).decode()
    print(json.dumps({"first": made[0], "second": made[1], "text": text}))
else:
    fernet = MultiFernet(keys)
    values = [json.loads(fernet.decrypt(token, ttl=60)) for token in given["tokens"]]
    print(json.dumps({"values": values, "text": fernet.decrypt(given["text"], ttl=60).decode()}))
