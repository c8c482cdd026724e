"""Waits until the kernel's log has a flow, and prints such flows with the rule that decided.

Usage: flows.py --wait SECONDS [--action Allow|Deny] [--port N] [--source A] [--destination A] -- COMMAND...
COMMAND prints the log, one JSON object a line.
"""
import argparse
import json
import subprocess
import sys
import time

ROWS_MAX = 6
POLL_SECONDS = 0.2


def main():
    own, command = sys.argv[1:], []
    if "--" in own:
        own, command = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--action")
    parser.add_argument("--port", type=int)
    parser.add_argument("--source")
    parser.add_argument("--destination")
    wanted = parser.parse_args(own)

    def fits(row):
        pairs = (("action", wanted.action), ("destinationPort", wanted.port),
                 ("source", wanted.source), ("destination", wanted.destination))
        return all(value is None or row.get(name) == value for name, value in pairs)

    deadline = time.monotonic() + wanted.wait
    while True:
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows = [row for row in map(json.loads, printed.splitlines()) if fits(row)]
        if rows:
            break
        if time.monotonic() > deadline:
            sys.exit("the kernel's log has no such flow: %s" % " ".join(own))
        time.sleep(POLL_SECONDS)
    for row in rows[-ROWS_MAX:]:
        print("%-5s %s %s:%s -> %s:%s  by %s (%s, %s)" % (
            row["action"], row["protocol"], row["source"], row["sourcePort"], row["destination"],
            row["destinationPort"], row["rule"], row["direction"], row["level"]))


main()
