"""Starts the servers that take each other's place: each gives its URL for REST and for gRPC, or None where it speaks none."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ready(process, url, log):
    """Waits until a server answers; whoever has ended never will."""
    for _ in range(1200):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"swap: {process.args[0]} is not ready:\n{log.read_text()[-3000:]}")


class Servers:
    """All that was started, until the end."""

    def __init__(self, programs, peers, directory):
        self.programs, self.peers, self.directory, self.running = Path(programs), Path(peers), Path(directory), []

    def start(self, name, *arguments, environment=None, **options):
        log = self.directory / f"{name}.log"
        with log.open("wb") as file:
            options.setdefault("stdout", file)
            process = subprocess.Popen(list(map(str, arguments)), stderr=file, env=environment, **options)
        self.running.append(process)
        return process, log

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def python(self, name):
        return self.peers / name / "bin" / "python"

    def model_worker(self):
        program, models = self.programs / "model-worker", self.directory / "models"
        (models / "iris").mkdir(parents=True)
        train = [program, "train", "iris", "--trees", "30", "--out", models / "iris" / "1.model"]
        subprocess.run(train, check=True, capture_output=True)
        serve = [program, "serve", "--models", models, "--listen", "127.0.0.1:0"]
        process, log = self.start("model-worker", *serve, stdout=subprocess.PIPE)
        url = f"http://{json.loads(process.stdout.readline())['address']}"
        ready(process, f"{url}/v2/health/ready", log)
        return url, url

    def mlserver(self):
        home, rest, grpc = self.directory / "mlserver", free_port(), free_port()
        home.mkdir()
        fit = (
            "import joblib, sys; from sklearn.datasets import load_iris; from sklearn.ensemble import RandomForestClassifier as R; "
            "joblib.dump(R(30, random_state=1).fit(*load_iris(return_X_y=True)), sys.argv[1])"
        )
        subprocess.run([self.python("mlserver"), "-c", fit, home / "iris.joblib"], check=True)
        settings = {"host": "127.0.0.1", "http_port": rest, "grpc_port": grpc, "metrics_port": free_port(), "parallel_workers": 0}
        (home / "settings.json").write_text(json.dumps(settings))
        parameters = {"uri": "./iris.joblib", "version": "1"}
        model = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
        (home / "model-settings.json").write_text(json.dumps(model))
        process, log = self.start("mlserver", self.peers / "mlserver/bin/mlserver", "start", home, cwd=home)
        url = f"http://127.0.0.1:{rest}"
        ready(process, f"{url}/v2/models/iris/ready", log)
        return url, f"http://127.0.0.1:{grpc}"

    def fastapi(self):
        port = free_port()
        serve = ["-m", "uvicorn", "--app-dir", HERE / "peers", "--port", port, "--no-access-log", "fastapi_app:app"]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        process, log = self.start("fastapi", self.python("fastapi"), *serve, environment=environment)
        url = f"http://127.0.0.1:{port}"
        ready(process, f"{url}/v2/health/ready", log)
        return url, None

    def triton(self):
        """NVIDIA's own server, which nvidia-pytriton carries; its library is not used."""
        packages = next((self.peers / "pytriton/lib").glob("python*/site-packages"))
        server = packages / "pytriton/tritonserver"
        stub = server / f"python_backend_stubs/{packages.parent.name.removeprefix('python')}/triton_python_backend_stub"
        for program in stub, server / "bin/tritonserver":
            program.chmod(0o755)
        # Where Triton looks for it. A link, because it finds its own libraries by where it lies.
        place = server / "backends/python/triton_python_backend_stub"
        if not place.exists():
            place.symlink_to(stub)
        home, rest, grpc = self.directory / "triton", free_port(), free_port()
        (home / "iris/1").mkdir(parents=True)
        shutil.copy(HERE / "peers/triton_config.pbtxt", home / "iris/config.pbtxt")
        shutil.copy(HERE / "peers/triton_model.py", home / "iris/1/model.py")
        shutil.copy(HERE / "peers/rule.py", home / "iris/1/rule.py")
        environment = os.environ | {
            # The Python that made the environment, not the system's of the same version.
            "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
            "PACKAGES": str(packages),
        }
        places = [f"--model-repository={home}", f"--backend-directory={server / 'backends'}"]
        ports = [f"--http-port={rest}", f"--grpc-port={grpc}", "--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
        process, log = self.start("triton", program, *places, *ports, "--allow-metrics=false", environment=environment)
        url = f"http://127.0.0.1:{rest}"
        ready(process, f"{url}/v2/health/ready", log)
        return url, f"http://127.0.0.1:{grpc}"
