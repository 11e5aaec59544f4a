"""A program that prints its environment, and exits with CODE or waits for a signal.

Usage: `python -m tests.system.harness.mirror [CODE]`.
"""

import json
import os
import random
import signal
import sys

if __name__ == "__main__":
    seen = {
        "words": sys.argv[1:],
        "environ": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
        "folder": os.getcwd(),
        "path": sys.path,
        "module": sys.modules["__main__"].__spec__.name,  # type: ignore[union-attr]
        "leads_session": os.getsid(0) == os.getpid(),
        "stdin_seekable": sys.stdin.seekable(),
        "stdin": sys.stdin.read(),
        "random": random.random(),
        "sigchld": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        "open_files": len(os.listdir("/proc/self/fd")),
    }
    print(json.dumps(seen))
    print("an error", file=sys.stderr)
    if sys.argv[1:]:
        sys.exit(int(sys.argv[1]))
    sys.stdout.flush()
    signal.pause()
