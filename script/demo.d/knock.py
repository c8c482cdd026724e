"""Tries a TCP connection and prints what came of it, from which address it asked, and the model's verdict beside it.

Usage: knock.py ADDRESS PORT [MOAT ENVIRONMENT]
"""
import socket
import subprocess
import sys

WAIT_SECONDS = 3

address, port = sys.argv[1], int(sys.argv[2])
address = socket.gethostbyname(address)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
    route.connect((address, port))  # sends nothing; the kernel picks the source address
    own = route.getsockname()[0]
print("from", own)
try:
    socket.create_connection((address, port), timeout=WAIT_SECONDS).close()
    print("connected to %s:%d" % (address, port))
except TimeoutError:
    print("no answer from %s:%d in %d s" % (address, port, WAIT_SECONDS))
except OSError as error:
    print("no connection to %s:%d: %s" % (address, port, error))
if len(sys.argv) > 3:
    moat, environment = sys.argv[3:]
    sys.stdout.flush()
    # Inside, while the address is still somebody's.
    command = [moat, "trace", "-e", environment, own, address, "--port", str(port), "--protocol", "tcp"]
    traced = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
    print("the model:", *traced.splitlines()[:3], sep="\n  ")
