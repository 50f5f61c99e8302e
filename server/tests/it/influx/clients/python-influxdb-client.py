"""Writes with PyPI `influxdb-client`, and prints what its user sees: HOST PORT TOKEN."""

import sys
from datetime import datetime, timezone
from influxdb_client import InfluxDBClient, Point, WriteOptions, WritePrecision
from influxdb_client.client.write.retry import WritesRetry
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

host, port, token = sys.argv[1:4]


def connect(token=token, **options):
    return InfluxDBClient(f"http://{host}:{port}", token, org="o", **options)


client = connect()
print("ping", client.ping())
print("health", client.health().status)

write = client.write_api(write_options=SYNCHRONOUS)
cpu = Point("cpu").tag("host", "palm").field("value", 23.7).field("n", 3).field("up", True)
write.write("metrics", record=cpu.field("s", 'x "y", z').time(1150864247, WritePrecision.S))
disk = Point("disk").tag("mount point", "/a b,c=d;e").field("free space", 1.5)
write.write("metrics", record=disk.time(datetime(2006, 6, 21, 4, 30, 47, tzinfo=timezone.utc)))
for unit, scale in [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]:
    record = {
        "measurement": "precision",
        "tags": {"unit": unit},
        "fields": {"value": scale},
        "time": 1150864247 * scale,
    }
    write.write("metrics", record=record, write_precision=unit)

options = WriteOptions(batch_size=1000, flush_interval=100)
with client.write_api(write_options=options) as batching:
    batching.write(
        "metrics",
        record=[f"batch,core={index % 4} value={index} {index}" for index in range(2500)],
        write_precision="s",
    )
compressing = connect(enable_gzip=True).write_api(write_options=SYNCHRONOUS)
compressing.write("metrics", record="gzip value=1 1150864247", write_precision="s")

try:
    connect("wrong-token").write_api(write_options=SYNCHRONOUS).write("metrics", record="denied value=1")
except ApiException as error:
    print("denied", error.status, error.body)
try:
    write.write("metrics", record="partial value=1 1\nbad line here x", write_precision="s")
except ApiException as error:
    print("invalid", error.status, error.body)
# Without a strategy nothing is tried again.
try:
    write.write("metrics", record="full value=1")
except ApiException as error:
    print("full", error.status, error.headers["Retry-After"], error.body)


def retried(conf, data, exception):
    print("retry", exception.response.status, exception.retry_after)


# By itself, after as many seconds as the server says.
with client.write_api(write_options=WriteOptions(batch_size=1), retry_callback=retried) as batching:
    batching.write("metrics", record="retried value=2 1150864247", write_precision="s")
