"""Times creations, first commands and first cells through the E2B SDK of this interpreter.

    latency.py CONCURRENCY

Reads lines `KIND ROUNDS`. In each round, CONCURRENCY threads start at once. Each creates a sandbox
and does nothing more (`create`), runs a command (`command`) or runs a cell (`code`). The answer is
a line of JSON with an object for each thread: the seconds from its start to the return of
`Sandbox.create`, to the end of the command or cell, and between the two; or `failed`, with the
message of the SDK.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from e2b_code_interpreter import Sandbox


def measure(kind, gate, results, boxes):
    gate.wait()
    try:
        start = time.perf_counter()
        box = Sandbox.create(timeout=120)
        created = time.perf_counter()
        boxes.append(box)
        times = {"create-headers": created - start}
        if kind != "create":
            name = use(kind, box)
            ended = time.perf_counter()
            times |= {name: ended - start, f"{name}-alone": ended - created}
        results.append(times)
    except Exception as error:
        results.append({"failed": f"{type(error).__name__}: {error}"[:300]})


def use(kind, box):
    if kind == "command":
        done = box.commands.run("echo ready")
        if done.stdout != "ready\n":
            raise AssertionError(f"the first command printed {done.stdout!r}")
        return "first-command"
    cell = box.run_code("1+1")
    if cell.text != "2":
        raise AssertionError(f"the first cell returned {cell.text!r}")
    return "first-run-code"


def run_round(kind, concurrency):
    results, boxes = [], []
    gate = threading.Barrier(concurrency)
    threads = [
        threading.Thread(target=measure, args=(kind, gate, results, boxes), daemon=True)
        for _ in range(concurrency)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for box in boxes:
        box.kill()
    return results


def main():
    concurrency = int(sys.argv[1])
    for kind in ("command", "code"):  # imports and clients, which a process sets up once
        run_round(kind, 1)
    print("warm", flush=True)
    for line in sys.stdin:
        kind, rounds = line.split()
        results = [one for _ in range(int(rounds)) for one in run_round(kind, concurrency)]
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
