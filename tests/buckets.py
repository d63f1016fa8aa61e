"""An S3 endpoint on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

NAME = "mlflow"


@contextlib.contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """A bucket called :data:`NAME`, for a while; gives the environment that leads to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    endpoint = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    endpoint.start()
    host, port = endpoint.get_host_and_port()
    uri = f"http://{host}:{port}"
    login = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    region = "us-east-1"
    client = boto3.client("s3", endpoint_url=uri, region_name=region, **login)
    client.create_bucket(Bucket=NAME)
    try:
        yield {
            "MLFLOW_S3_ENDPOINT_URL": uri,
            "AWS_DEFAULT_REGION": region,
            **{name.upper(): value for name, value in login.items()},
        }
    finally:
        endpoint.stop()
