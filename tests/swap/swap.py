"""Swaps the server behind one running gateway, and makes every call of real clients to each: swap.py PROGRAMS PEERS SERVER...

`run` beside it installs what this needs. Prints tables in Markdown; ends with 1 where a call came out otherwise than it should.
"""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import faults
from differences import DIFFERENCES
from servers import HERE, Servers

CLIENTS = [("triton", "triton.py", "http"), ("triton", "triton.py", "grpc")]
CLIENTS += [("kserve", "kserve_calls.py", "rest"), ("kserve", "kserve_calls.py", "grpc")]
TITLES = {"triton.py": "tritonclient", "kserve_calls.py": "kserve"}
POLICY = """
[listener]
address = "127.0.0.1:0"
certificate = "server.pem"
private_key = { file = "server.key" }
[admin]
address = "127.0.0.1:0"
[log]
format = "json"
[defaults]
authenticate = ["api_key"]
limits = ["per-address"]
[roles.reader]
[roles.predictor]
includes = ["reader"]
[roles.admin]
includes = ["predictor"]
[limits.per-address]
quota = 60000
window = "60s"
by = ["address"]
store_lost = "deny"
"""
# Beside config/oip-v2.toml: values are held against the model's card, POST /predict and a chat are opened.
OVERLAY = """
[limits.v2]
quota = 60000
[guards.iris]
card = "card.json"
[routes.iris]
path = "/v2/models/iris/infer"
methods = ["POST"]
pool = "v2"
authorize = ["predictor"]
body = { format = "oip-v2", guard = "iris" }
[routes.predict]
path = "/predict"
methods = ["POST"]
pool = "predict"
authorize = ["predictor"]
body = { guard = "iris" }
[pools.predict]
profile = "predict"
[pools.chat]
profile = "openai"
[routes.chat]
path = "/v1/chat/completions"
methods = ["POST"]
pool = "chat"
authorize = ["predictor"]
body = { max = "64KiB" }
"""


class Gateway:
    """The gateway, its certificate and a key for an admin."""

    def __init__(self, servers):
        self.servers, self.home = servers, servers.directory / "gateway"
        self.home.mkdir()
        self.program = servers.programs / "gateway"
        self.ca = self.home / "server.pem"
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        files = ["-keyout", self.home / "server.key", "-out", self.ca]
        subprocess.run([*make, *names, *files], check=True, capture_output=True)
        issue = [self.program, "key", "new", "tester", "--owner", "Tester", "--role", "admin"]
        issued = subprocess.run(issue, check=True, capture_output=True, text=True).stdout
        policy = issued[issued.index("[api_keys") :]
        self.key = next(line for line in issued.splitlines() if re.fullmatch(r"mg\S{20,}|\S{40,}", line))
        socket = f'[admin]\nsocket = "{self.home / "admin.sock"}"\n'
        self.write("policy.toml", POLICY + policy)
        self.write("socket.toml", socket)
        self.write("overlay.toml", OVERLAY)

    def write(self, name, text):
        (self.home / name).write_text(text)

    def pools(self, rest, grpc, chat):
        """The one file that is changed when servers are swapped."""
        pools = {"v2": rest, "v2-grpc": grpc or rest, "predict": rest, "chat": chat}
        self.write("pools.toml", "".join(f'[pools.{name}]\nworkers = ["{url}"]\n' for name, url in pools.items()))

    def start(self):
        files = ["policy.toml", HERE.parent.parent / "config/oip-v2.toml", "overlay.toml", "socket.toml", "pools.toml"]
        files = [word for file in files for word in ("--config", file)]
        process, log = self.servers.start("gateway", self.program, "run", *files, cwd=self.home)
        while '"listening"' not in log.read_text():
            if process.poll() is not None:
                sys.exit(f"swap: the gateway ended:\n{log.read_text()}")
        listening = next(line for line in map(json.loads, log.read_text().splitlines()) if line.get("event") == "listening")
        self.address, self.admin = listening["address"], "unix:" + listening["admin_socket"]

    def swap(self, rest, grpc, chat):
        self.pools(rest, grpc, chat)
        subprocess.run([self.program, "reload", "--admin", self.admin], check=True, capture_output=True)

    def calls(self, environment, script, *arguments):
        """What each call of a script came to: None where it was as it should be."""
        run = [self.servers.python(environment), "-B", HERE / "clients" / script, *arguments]
        done = subprocess.run(list(map(str, run)), capture_output=True, text=True, timeout=300)
        found = {line["call"]: line["said"] for line in map(json.loads, done.stdout.splitlines())}
        if done.returncode != 0:
            found[f"{arguments[0]} client"] = f"ended with {done.returncode}: {done.stderr[-1500:]}"
        return {f"{TITLES[script]} {call}": said for call, said in found.items()}

    def every_call(self, label, has_grpc):
        found = {}
        for environment, script, kind in CLIENTS:
            if kind != "grpc" or has_grpc:
                found |= self.calls(environment, script, kind, self.address, self.ca, self.key, label)
        return found


def chat(gateway, stand_in):
    """Whether openai's client has the first part of an answer before the last is sent."""
    run = [gateway.servers.python("openai"), "-B", HERE / "clients/chat.py", gateway.address, gateway.ca, gateway.key]
    client = subprocess.Popen(list(map(str, run)), stdout=subprocess.PIPE, text=True)
    good = True
    for line in client.stdout:
        if line == "first\n":
            stand_in.stdin.write(b"go on\n")
            stand_in.stdin.flush()
            continue
        told = json.loads(line)
        good &= told["said"] is None
        print(f"| openai {told['call']} | {told['said'] or 'ok'} |")
    return client.wait() == 0 and good


def table(title, columns, rows):
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells.get(column, '–') for column in columns)} |")


def main(programs, peers, names):
    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(programs, peers, directory)
        try:
            return prove(servers, names)
        finally:
            servers.stop()


def prove(servers, names):
    chat_run = [sys.executable, "-B", HERE / "peers/chat.py"]
    stand_in, _ = servers.start("chat", *chat_run, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    chat_url = f"http://127.0.0.1:{stand_in.stdout.readline().decode().strip()}"
    gateway, wrong = Gateway(servers), []
    own = servers.model_worker()
    with urllib.request.urlopen(f"{own[0]}/v2/models/iris", timeout=20) as card:
        gateway.write("card.json", card.read().decode())
    gateway.pools(*own, chat_url)
    gateway.start()
    results, refusals, notes = {}, {}, {}
    for name in names:
        print(f"swap: {name}", file=sys.stderr)
        rest, grpc = own if name == "model-worker" else getattr(servers, name)()
        gateway.swap(rest, grpc, chat_url)
        expected = DIFFERENCES.get(name, {})
        found = gateway.every_call("predict" if name == "mlserver" else "label", grpc is not None)
        for call, said in found.items():
            note = next((note for pattern, note in expected.items() if re.fullmatch(pattern, call)), None)
            if said is not None and note is None or said is None and note is not None:
                wrong.append(f"{name}: {call}: {said or f'succeeds, and should not: {note}'}")
            if note is not None and said is not None:
                notes.setdefault(note, len(notes) + 1)
            cell = "ok" if said is None else f"no ({notes[note]})" if note in notes else "FAILS"
            results.setdefault(call, {})[name] = cell
        if name in ("model-worker", "fastapi"):
            flower = dict(zip(["sepal_length", "sepal_width", "petal_length", "petal_width"], faults.ROW))
            body = json.dumps(flower)
            said = faults.status(f"https://{gateway.address}", body, faults.JSON, gateway.ca, gateway.key, "/predict")
            results.setdefault("POST /predict", {})[name] = "ok" if said == "200" else "FAILS"
            if said != "200":
                wrong.append(f"{name}: POST /predict: {said}")
        for fault, body, head in faults.FAULTS:
            direct = faults.status(rest, body, head)
            through = faults.status(f"https://{gateway.address}", body, head, gateway.ca, gateway.key)
            if not through.startswith("4"):
                wrong.append(f"{name}: {fault}: {through} through the gateway")
            answers = refusals.setdefault(fault, {})
            before = answers.get("gateway")
            answers |= {name: direct, "gateway": through if before in (None, through) else f"{before}, {through}"}
    table("Calls through the gateway", names, results)
    for note, number in notes.items():
        print(f"\n({number}) {note}")
    table("What clients get wrong: the status from each server itself, and from the gateway before it", [*names, "gateway"], refusals)
    print("\nA streamed chat\n\n| | |\n| --- | --- |")
    if not chat(gateway, stand_in):
        wrong.append("the chat")
    print(f"\n{sum(len(cells) for cells in results.values())} calls, {len(wrong)} not as they should be")
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
