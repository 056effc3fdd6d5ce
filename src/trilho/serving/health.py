"""`python -m trilho.serving.health`: exit code 0 when the service in this container is ready.

The container's health check; standard library only, so that it costs little.
"""

import http.client
import os
import sys


def main() -> int:
    host = os.environ.get("TRILHO_HOST") or "127.0.0.1"
    if host in ("0.0.0.0", "::"):  # noqa: S104 - the addresses that mean all
        host = "127.0.0.1"
    connection = http.client.HTTPConnection(
        host, int(os.environ.get("TRILHO_PORT") or 8080), timeout=2
    )
    try:
        connection.request("GET", "/ping")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError:
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
