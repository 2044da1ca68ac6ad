"""Starts Triton and FastAPI with ONNX Runtime, and measures the worker beside them: tests/worker/run bench.

    bench.py DIRECTORY ENVIRONMENTS COMMAND...

DIRECTORY has what peers/forest.py wrote. The command is told of each server: --peer NAME ADDRESS PROCESS.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent / "swap"))

import servers


class Peers(servers.Servers):
    """The servers of tests/swap, with the models of this folder."""

    def python(self, name):
        return self.peers / {"fastapi": "fastapi-ort"}.get(name, name) / "bin" / "python"


def main(directory, environments, *command):
    servers.HERE = HERE
    packages = next((pathlib.Path(environments) / "fastapi-ort/lib").glob("python*/site-packages"))
    os.environ |= {"FOREST": str(pathlib.Path(directory) / "forest.onnx"), "ONNXRUNTIME": str(packages)}
    peers = Peers("", environments, directory)
    try:
        told = []
        for name, start in (("Triton 2.51", peers.triton), ("FastAPI + ONNX Runtime", peers.fastapi)):
            url, _ = start()
            told += ["--peer", name, url.removeprefix("http://"), str(peers.running[-1].pid)]
        sys.exit(subprocess.run([*command, *told], check=False).returncode)
    finally:
        peers.stop()


main(*sys.argv[1:])
