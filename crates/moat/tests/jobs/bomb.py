# Makes processes until no more are given, and goes on trying.
import os, signal

made = 0
while True:
    try:
        if os.fork() == 0:
            signal.pause()
        made += 1
    except BlockingIOError:
        if made:
            print("refused after", made, flush=True)
            made = 0
