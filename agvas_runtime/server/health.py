"""`python -m agvas_runtime.server.health [HOST:PORT]`: exit 0 when the server there serves, 1 otherwise.

For container health checks, so it imports as little as possible. What a server with TLS or an access file wants to see
is given as `--token-file`, `--ca`, `--cert` and `--key`, or in AGVAS_TOKEN_FILE, AGVAS_CA, AGVAS_CERT and AGVAS_KEY.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.errors import InputError
from agvas_runtime.server.channel import open_channel, read_token

DEFAULT_ADDRESS = "127.0.0.1:50051"
TIMEOUT_S = 3.0
FILES = {
    "token-file": "file with a token that has the right inspect",
    "ca": "PEM file of who signed the server's certificate",
    "cert": "PEM file with a certificate to show",
    "key": "PEM file with its private key",
}


def status(address: str, **credentials: Any) -> str:
    """The server's health, SERVING when all is well; the reason when it does not answer.

    The connection is left to the end of the process: gRPC was seen to hang while it closes a process's first one.

    Args:
        address: `host:port`.
        credentials: as `open_channel` takes them; raises InputError as it does.
    """
    channel = open_channel(address, **credentials)
    try:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


def main() -> int:
    """Print the status; 0 when the server serves, 1 when not, 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="agvas_runtime.server.health", allow_abbrev=False)
    parser.add_argument("address", nargs="?", default=DEFAULT_ADDRESS, metavar="HOST:PORT")
    for name, text in FILES.items():
        variable = f"AGVAS_{name.replace('-', '_').upper()}"
        default = os.environ.get(variable) or None
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", default=default, help=f"{text}; or {variable}")
    given = parser.parse_args()
    try:
        token = None if given.token_file is None else read_token(given.token_file)
        found = status(given.address, token=token, ca=given.ca, cert=given.cert, key=given.key)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    print(found, flush=True)
    return 0 if found == "SERVING" else 1


if __name__ == "__main__":
    os._exit(main())  # without gRPC's own end
