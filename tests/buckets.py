"""A real S3 server for tests: versitygw where it is installed or was built once by `go install`,
else moto's server; both on loopback, both ended with the test."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import botocore.exceptions
from moto.server import ThreadedMotoServer

__all__ = ["BUCKET", "LOGIN", "serving"]

BUCKET = "loomos-archive"
LOGIN = ("testing-access", "testing-secret")


def gateway() -> str | None:
    """The program versitygw."""
    return os.environ.get("LOOMOS_TEST_VERSITYGW") or shutil.which("versitygw")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The endpoint of a server that holds one empty bucket."""
    with posix(folder, program) if (program := gateway()) else moto() as endpoint:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=LOGIN[0],
            aws_secret_access_key=LOGIN[1],
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
                break
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                assert time.monotonic() < deadline, f"{endpoint} does not answer"
                time.sleep(0.05)
        client.close()
        yield endpoint


@contextlib.contextmanager
def posix(folder: Path, program: str) -> Iterator[str]:
    """The gateway over a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True)
    command = [program, "--access", LOGIN[0], "--secret", LOGIN[1], "--port", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "posix", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """The server of a package from the index."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
