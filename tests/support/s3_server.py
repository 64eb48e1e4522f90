"""A whole S3 server (moto) on a port of its own: prints its address, and ends with its input.

Run as a program, where moto can be imported: it is too large for the tests' environment.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main() -> None:
    moto: Any = importlib.import_module("moto.server")  # installed for these tests alone
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
