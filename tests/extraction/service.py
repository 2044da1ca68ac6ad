"""A worker and a gateway with the routes of the experiment, and a thief's connection to it."""

import http.client
import json
import os
import ssl
import subprocess
import threading

import numpy as np

from attacks import Spent

FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
LABELS = ("setosa", "versicolor", "virginica")
# Rows in one request, as the shipped schema has it.
BATCH = 100
RULES = {
    "full": "",
    "rounded": 'form = "predict"\nshow = "all"\nsteps = 10\n',
    "top-1": 'form = "predict"\nshow = "top"\ntop = 1\n',
    "label": 'form = "predict"\nshow = "label"\n',
}

POLICY = """
[roles.predictor]
[limits.rows]
cost = "rows"
quota = {quota}
window = "1d"
by = ["principal"]
store_lost = "deny"
[limits.requests]
quota = 10000
window = "60s"
by = ["principal"]
store_lost = "deny"
"""
ROUTE = """
[routes.{name}]
path = "/{name}"
methods = ["POST"]
pool = "models"
worker_path = "/models/iris/predict"
authenticate = ["api_key"]
authorize = ["predictor"]
limits = {limits}
{answers}[routes.{name}.body]
max = "32KiB"
depth = 3
"""
MECHANISM = """
[listener]
address = "127.0.0.1:0"
certificate = "made/server.pem"
private_key = {{ file = "made/server.key" }}
[admin]
address = "127.0.0.1:0"
[pools.models]
workers = ["http://{worker}"]
"""


class Service:
    """Both programs, until the end of a `with`."""

    def __init__(self, programs, directory, quota, thieves):
        self.programs, self.directory, self.quota = programs, directory, quota
        self.thieves = thieves
        self.running, self.connections = [], []
        self.keys = {}

    def program(self, name):
        return os.path.join(self.programs, name)

    def output(self, *words):
        done = subprocess.run(words, cwd=self.directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *words):
        """Starts a program and waits until it says where it listens; what it says later is passed over."""
        process = subprocess.Popen(
            words, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = []
        for line in process.stdout:
            said.append(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "listening":
                reader = threading.Thread(target=lambda: [None for _ in process.stdout])
                reader.start()
                self.running.append((process, reader))
                return event["address"]
        raise SystemExit("".join(said))

    def __enter__(self):
        # Makes the certificates and the model as an operator's first try does.
        self.output(
            self.program("gateway"), "quickstart", "--once", "--dir", "made", "--port", "0", "--admin-port", "0"
        )
        worker = self.start(
            self.program("model-worker"), "serve", "--models", "made/models", "--listen", "127.0.0.1:0"
        )
        policy = POLICY.format(quota=self.quota)
        for thief in self.thieves:
            words = ("key", "new", thief, "--owner", "tests", "--role", "predictor")
            self.keys[thief], toml = self.output(self.program("gateway"), *words).split("\n", 1)
            policy += toml
        for rule, answers in RULES.items():
            if answers:
                policy += f"[answers.{rule}]\n{answers}"
            named = f'answers = "{rule}"\n' if answers else ""
            policy += ROUTE.format(name=rule, limits='["requests"]', answers=named)
            policy += ROUTE.format(name=f"{rule}-limited", limits='["rows", "requests"]', answers=named)
        for name, text in (("gateway.toml", MECHANISM.format(worker=worker)), ("policy.toml", policy)):
            with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
                file.write(text)
        files = ("--config", "gateway.toml", "--config", "policy.toml")
        self.address = self.start(self.program("gateway"), "run", *files)
        return self

    def __exit__(self, *_):
        for connection in self.connections:
            connection.http.close()
        for process, reader in reversed(self.running):
            process.terminate()
            process.wait()
            reader.join()
            process.stdout.close()

    def card(self):
        """What the worker's file says of the model."""
        inspected = self.output(self.program("model-worker"), "inspect", "--json", "made/models/iris/1.model")
        return json.loads(inspected)["card"]

    def connect(self, thief, path):
        self.connections.append(Connection(self, self.keys[thief], path))
        return self.connections[-1]


class Connection:
    """One key at one route, over TLS."""

    def __init__(self, service, key, path):
        context = ssl.create_default_context(cafile=os.path.join(service.directory, "made/ca.pem"))
        port = int(service.address.rsplit(":", 1)[1])
        self.http = http.client.HTTPSConnection("localhost", port, context=context)
        self.fields = {"X-API-Key": key, "Content-Type": "application/json"}
        self.path = path

    def ask(self, rows):
        """What is shown for each row, or None where the limit on rows refuses them."""
        body = json.dumps([dict(zip(FEATURES, map(float, row))) for row in rows])
        self.http.request("POST", self.path, body, self.fields)
        answer = self.http.getresponse()
        text = answer.read()
        said = json.loads(text)
        if answer.status == 429 and said["type"].endswith(":limit-exceeded"):
            return None
        if answer.status != 200:
            raise SystemExit(f"{self.path}: {answer.status} {text.decode()}")
        return said["predictions"]


class Answers:
    """All that a thief was answered. `reached` is called when it has so many rows as a mark says; after the last it is spent,
    and so it is when not even one row more is admitted."""

    def __init__(self, connection, marks, reached):
        self.connection, self.marks, self.reached = connection, list(marks), reached
        self.asked, self.shown = [], []

    def __len__(self):
        return len(self.asked)

    def rows(self):
        return np.array(self.asked)

    def labels(self):
        return np.array([LABELS.index(each["label"]) for each in self.shown])

    def shares(self):
        """A share for each class; what is not shown is divided evenly. None where no number is shown."""
        if "probabilities" not in self.shown[0]:
            return None
        shares = np.zeros((len(self.shown), len(LABELS)))
        for row, each in zip(shares, self.shown):
            known = each["probabilities"]
            rest = (1 - sum(known.values())) / max(1, len(LABELS) - len(known))
            row[:] = [known.get(label, rest) for label in LABELS]
        return shares

    def ask(self, rows):
        """What is shown for each row, in a form that can be compared."""
        shown = []
        most = BATCH
        while len(shown) < len(rows):
            # Only now, when the thief has made what it can of the last answers.
            if self.marks and len(self) == self.marks[0]:
                self.reached(self.marks.pop(0), self)
                if not self.marks:
                    raise Spent
            count = min(most, len(rows) - len(shown), self.marks[0] - len(self) if self.marks else most)
            part = rows[len(shown) : len(shown) + count]
            answered = self.connection.ask(part)
            if answered is None:
                if count == 1:
                    raise Spent
                most = count // 2
                continue
            self.asked.extend(part)
            self.shown.extend(answered)
            shown.extend((each["label"], str(each.get("probabilities"))) for each in answered)
        return shown
