"""GitHub's REST API on loopback, with state: comments, pull requests, heads, issues.

It answers as GitHub does where Trilho and CML look: statuses, pagination by `per_page`, `page` and
the Link header, who may write what, whose comment it is. A test sets faults, and reads in
`requests` what was asked.

    with github_api() as api:
        api.pull(7, "octo/credit", "better-model", SHA)
        api.comment(7, "Nice.", login="ana")
        environment |= api.environment()

`github_api(tls=True)` speaks https with a certificate of its own and stands where GitHub
Enterprise has its API (`/api/v3`): the only kind of host but github.com that CML talks to.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from github_state import ACTIONS, BODY_LIMIT, Comment, GitHub, Issue, RefusedError, Request

__all__ = ["ACTIONS", "BODY_LIMIT", "Comment", "GitHub", "Issue", "github_api"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for each other
    github: GitHub

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = re.sub(r"^/api(/v3)?(?=/)", "", parts.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        size = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(size)
        token = self.headers.get("Authorization", "").rpartition(" ")[2]
        body: Any = None
        with contextlib.suppress(ValueError):
            body = json.loads(data) if data else None

        github = self.github
        fault = github.fault(self.command, path)
        if fault is not None and fault.do is not None:
            fault.do()
        status, said, headers = 0, None, {}
        if fault is None or fault.done or fault.status < 0:
            with github.lock:
                try:
                    status, said, headers = github.answer(self.command, path, query, body, token)
                except RefusedError as refused:
                    status, headers = refused.status, {}
                    said = {"message": refused.message, "status": str(status)}
                    if refused.errors:
                        said["errors"] = refused.errors
        if fault is not None and fault.status >= 0:
            status, headers = fault.status, fault.headers
            said = {"message": fault.message}
        with github.lock:
            github.requests.append(Request(self.command, path, query, body, token, status))
        if status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._reply(status, said, headers)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _reply(self, status: int, said: Any, headers: dict[str, str]) -> None:
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away is no concern of a test


@contextlib.contextmanager
def github_api(repository: str = "octo/credit", *, tls: bool = False) -> Iterator[GitHub]:
    """Serve a GitHub of its own until the block ends."""
    github = GitHub(repository)
    handler = type("BoundHandler", (Handler,), {"github": github})
    server = Server(("127.0.0.1", 0), handler)
    port = server.server_address[1]
    with tempfile.TemporaryDirectory(prefix="github-api-") as folder:
        if tls:
            github.certificate = Path(folder) / "certificate.pem"
            server.socket = _tls(server.socket, github.certificate)
            github.server_url = f"https://localhost:{port}"
            github.url = f"{github.server_url}/api/v3"
        else:
            github.url = github.server_url = f"http://127.0.0.1:{port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield github
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _tls(plain: socket.socket, certificate: Path) -> ssl.SSLSocket:
    """Wrap the listening socket; `certificate` is what clients must trust."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = certificate.with_name("key.pem")
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    # the handshake is made by the thread that serves the connection, not by the one that listens
    return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
