"""What the scripts beside this one share: a call is made, and one line of JSON says how it went."""

import json

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
LABELS = [0, 2]


def expect(condition, what=""):
    if not condition:
        raise AssertionError(what)


def check(name, call):
    """Makes a call and reports it."""
    try:
        call()
        said = None
    except Exception as error:  # whatever a client raises is what is to be reported
        said = f"{type(error).__name__}: {error}"
    print(json.dumps({"call": name, "said": said}), flush=True)


def refused(call, *words):
    """The call must be refused, and one of the words be in what the client makes of it."""
    try:
        call()
    except Exception as error:
        expect(any(word in str(error) for word in words), f"refused with {type(error).__name__}: {error}")
        return
    raise AssertionError("not refused")
