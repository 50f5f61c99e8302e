"""Writes with PyPI `influxdb3-python`, and prints what its user sees: HOST PORT TOKEN."""

import sys
from influxdb_client_3 import (
    InfluxDBClient3,
    InfluxDBError,
    Point,
    SYNCHRONOUS,
    WriteOptions,
    WritePrecision,
    write_client_options,
)

host, port, token = sys.argv[1:4]


def connect(token=token, **options):
    return InfluxDBClient3(f"http://{host}:{port}", database="metrics", token=token, **options)


def synchronous(**options):
    return write_client_options(write_options=WriteOptions(write_type=SYNCHRONOUS.write_type, **options))


client = connect(write_client_options=synchronous())
cpu = Point("cpu").tag("host", "palm").field("value", 23.7).field("n", 3).field("up", True)
client.write(cpu.field("s", 'x "y", z').time(1150864247, WritePrecision.S), write_precision="s")
client.write(
    {
        "measurement": "disk",
        "tags": {"mount point": "/a b,c=d;e"},
        "fields": {"free space": 1.5},
        "time": "2006-06-21T04:30:47Z",
    }
)
for unit, scale in [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)]:
    client.write(f"precision,unit={unit} value={scale} {1150864247 * scale}", write_precision=unit)
with connect(
    write_client_options=write_client_options(write_options=WriteOptions(batch_size=1000, flush_interval=100))
) as batching:
    batching.write(
        [f"batch,core={index % 4} value={index} {index}" for index in range(2500)], write_precision="s"
    )
compressing = connect(write_client_options=synchronous(), enable_gzip=True)
compressing.write("gzip value=1 1150864247", write_precision="s")

try:
    connect("wrong-token", write_client_options=synchronous()).write("denied value=1")
except InfluxDBError as error:
    print("denied", error.response.status, error.message)
try:
    client.write("partial value=1 1\nbad line here x", write_precision="s")
except InfluxDBError as error:
    print("invalid", error.response.status, error.message)
try:
    connect(write_client_options=synchronous(max_retries=0)).write("full value=1")
except InfluxDBError as error:
    print("full", error.response.status, error.retry_after, error.message)


def retried(conf, data, exception):
    print("retry", exception.response.status, exception.retry_after)


with connect(
    write_client_options=write_client_options(write_options=WriteOptions(batch_size=1), retry_callback=retried)
) as batching:
    batching.write("retried value=2 1150864247", write_precision="s")
