"""Tries a TCP connection to ADDRESS PORT and says what came of it, and from which address it asked."""
import socket
import sys

WAIT_SECONDS = 3

address, port = sys.argv[1], int(sys.argv[2])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
    route.connect((address, port))  # sends nothing; the kernel picks the source address
    print("from", route.getsockname()[0])
try:
    socket.create_connection((address, port), timeout=WAIT_SECONDS).close()
    print("connected to %s:%d" % (address, port))
except TimeoutError:
    print("no answer from %s:%d in %d s" % (address, port, WAIT_SECONDS))
except OSError as error:
    print("no connection to %s:%d: %s" % (address, port, error))
