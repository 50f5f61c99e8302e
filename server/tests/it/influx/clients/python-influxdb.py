"""Writes with PyPI `influxdb`, and prints what its user sees: HOST PORT TOKEN."""

import sys
from influxdb import InfluxDBClient
from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError

host, port, token = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def connect(password=token, **options):
    return InfluxDBClient(host, port, "anyone", password, "metrics", **options)


client = connect()
print("version", client.ping())
client.create_database("metrics")
print("databases", client.get_list_database())

fields = {"value": 23.7, "n": 3, "up": True, "s": 'x "y", z'}
client.write_points(
    [{"measurement": "cpu", "tags": {"host": "palm"}, "time": 1150864247, "fields": fields}],
    time_precision="s",
)
client.write_points(
    [
        {
            "measurement": "disk",
            "tags": {"mount point": "/a b,c=d;e"},
            "time": "2006-06-21T04:30:47Z",
            "fields": {"free space": 1.5},
        }
    ]
)
for unit, scale in [("s", 1), ("ms", 10**3), ("u", 10**6), ("n", 10**9)]:
    client.write_points(
        [
            {
                "measurement": "precision",
                "tags": {"unit": unit},
                "time": 1150864247 * scale,
                "fields": {"value": scale},
            }
        ],
        time_precision=unit,
    )
client.write_points(
    [f"batch,core={index % 4} value={index} {index}" for index in range(2500)],
    protocol="line",
    time_precision="s",
    batch_size=1000,
)
connect(gzip=True).write_points(["gzip value=1 1150864247"], protocol="line", time_precision="s")

try:
    connect("wrong-token").write_points(["denied value=1"], protocol="line")
except InfluxDBClientError as error:
    print("denied", error.code, error.content)
try:
    client.write_points(["partial value=1 1", "bad line here x"], protocol="line", time_precision="s")
except InfluxDBClientError as error:
    print("invalid", error.code, error.content)
# The library tries nothing again but broken connections: its user does.
for attempt in range(3):
    try:
        client.write_points(["retried value=2 1150864247"], protocol="line", time_precision="s")
        print("stored at attempt", attempt)
    except InfluxDBServerError as error:
        print("full", error)
try:
    client.query("SELECT value FROM cpu")
except InfluxDBClientError as error:
    print("query", error.code, error.content)
