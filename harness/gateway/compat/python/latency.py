"""Creations, first commands and first cells through the E2B SDK that this interpreter has.

    latency.py CONCURRENCY ROUNDS

So many threads begin at once, so many times; one line of JSON for each of them: the seconds from
its start to the return of `Sandbox.create`, of the first command, and of the first cell after it,
each also from the return of the one before; or `failed`, with the SDK's message.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from e2b_code_interpreter import Sandbox


def once(gate, said):
    gate.wait()
    start = time.perf_counter()
    box = None
    try:
        box = Sandbox.create(timeout=120)
        created = time.perf_counter()
        done = box.commands.run("echo ready")
        commanded = time.perf_counter()
        if done.stdout != "ready\n":
            raise AssertionError(f"the first command said {done.stdout!r}")
        cell = box.run_code("1+1")
        coded = time.perf_counter()
        if cell.text != "2":
            raise AssertionError(f"the first cell gave {cell.text!r}")
        said.append(
            {
                "create-headers": created - start,
                "first-command": commanded - start,
                "first-command-alone": commanded - created,
                "first-run-code": coded - start,
                "first-run-code-alone": coded - commanded,
            }
        )
    except Exception as error:
        said.append({"failed": f"{type(error).__name__}: {error}"[:300]})
    finally:
        if box:
            box.kill()


def warm():
    """What the SDK does once in a process: imports and clients."""
    box = Sandbox.create(timeout=60)
    box.commands.run("echo ready")
    box.run_code("1+1")
    box.kill()


def main():
    concurrency, rounds = int(sys.argv[1]), int(sys.argv[2])
    warm()
    print("warm", flush=True)
    for _ in range(rounds):
        sys.stdin.readline()  # the rig has filled the pool again
        said = []
        gate = threading.Barrier(concurrency)
        threads = [threading.Thread(target=once, args=(gate, said)) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
