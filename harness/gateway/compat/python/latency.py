"""Creations, first commands and first cells through the E2B SDK that this interpreter has.

    latency.py CONCURRENCY

Reads lines `KIND ROUNDS`. So many threads begin at once, so many times; each has a sandbox made and
asks it for nothing more (`create`), a command (`command`) or a cell (`code`). Answers with one line
of JSON, an object for each of them: the seconds from its start to the return of `Sandbox.create`
and of what was asked, the latter also from the former; or `failed`, with the SDK's message.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from e2b_code_interpreter import Sandbox


def once(kind, gate, said, boxes):
    gate.wait()
    try:
        start = time.perf_counter()
        box = Sandbox.create(timeout=120)
        created = time.perf_counter()
        boxes.append(box)
        times = {"create-headers": created - start}
        if kind != "create":
            name = ask(kind, box)
            ended = time.perf_counter()
            times |= {name: ended - start, f"{name}-alone": ended - created}
        said.append(times)
    except Exception as error:
        said.append({"failed": f"{type(error).__name__}: {error}"[:300]})


def ask(kind, box):
    if kind == "command":
        done = box.commands.run("echo ready")
        if done.stdout != "ready\n":
            raise AssertionError(f"the first command said {done.stdout!r}")
        return "first-command"
    cell = box.run_code("1+1")
    if cell.text != "2":
        raise AssertionError(f"the first cell gave {cell.text!r}")
    return "first-run-code"


def a_round(kind, concurrency):
    said, boxes = [], []
    gate = threading.Barrier(concurrency)
    threads = [
        threading.Thread(target=once, args=(kind, gate, said, boxes)) for _ in range(concurrency)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for box in boxes:
        box.kill()
    return said


def main():
    concurrency = int(sys.argv[1])
    for kind in ("command", "code"):  # what the SDK does once in a process: imports and clients
        a_round(kind, 1)
    print("warm", flush=True)
    for line in sys.stdin:
        kind, rounds = line.split()
        said = [one for _ in range(int(rounds)) for one in a_round(kind, concurrency)]
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
