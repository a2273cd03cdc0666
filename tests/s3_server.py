"""An S3 server on loopback: moto's, in a process of its own, spoken to over HTTP."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Self

_START_TIMEOUT = 30.0
# Who asks without a signature may delete nothing; nobody checks whether it is a true one.
_SIGNATURE = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request,"
    " SignedHeaders=host, Signature=none"
}


@dataclass(frozen=True)
class S3Server:
    """A running server. It takes any credentials."""

    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls) -> Self:
        """Starts one on a free port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        server = cls(port, process)
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                server._request("GET", "/")
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    server.stop()
                    raise
                time.sleep(0.05)
            else:
                return server

    def stop(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()

    def environment(self) -> dict[str, str]:
        """What makes a client of S3 speak to it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def create_bucket(self, name: str) -> None:
        """Makes an empty bucket."""
        self._request("PUT", f"/{name}")

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Stores an object."""
        self._request("PUT", f"/{bucket}/{key}", content)

    def keys(self, bucket: str) -> list[str]:
        """What a bucket holds; of an unfinished multipart upload, `key (unfinished)`."""
        objects = re.findall("<Key>(.*?)</Key>", self._request("GET", f"/{bucket}?list-type=2"))
        uploads = re.findall("<Key>(.*?)</Key>", self._request("GET", f"/{bucket}?uploads"))
        return sorted([*objects, *(f"{key} (unfinished)" for key in uploads)])

    def delete(self, bucket: str, key: str) -> None:
        """Removes an object."""
        self._request("DELETE", f"/{bucket}/{key}")

    def _request(self, method: str, path: str, body: bytes | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, _SIGNATURE)
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status < 300, text
            return text
        finally:
            connection.close()
