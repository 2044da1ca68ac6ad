"""The moving window of PyPI's `limits` over Redis, as slowapi asks it: a thread for each request that waits."""

import json
import sys
import threading
import time

from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

port, keys, before, decisions, quota, window, waiting = map(int, sys.argv[1:])
storage = RedisStorage(f"redis://127.0.0.1:{port}")
limiter = MovingWindowRateLimiter(storage)
item = RateLimitItemPerSecond(quota, window)
lock = threading.Lock()


def ask_all(count):
    """Asks so many times in all; gives back how many were admitted."""
    left, admitted = count, 0

    def work():
        nonlocal left, admitted
        while True:
            with lock:
                if left == 0:
                    return
                left -= 1
                number = left
            hit = limiter.hit(item, f"caller-{number % keys:05}")
            with lock:
                admitted += hit

    threads = [threading.Thread(target=work) for _ in range(waiting)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return admitted


limiter.hit(item, "warm")
ask_all(before)
print("ready", flush=True)
sys.stdin.readline()
cpu, clock = time.process_time(), time.perf_counter()
admitted = ask_all(decisions)
took, cpu = time.perf_counter() - clock, time.process_time() - cpu
print(json.dumps({"admitted": admitted, "seconds": took, "cpu": cpu}), flush=True)
