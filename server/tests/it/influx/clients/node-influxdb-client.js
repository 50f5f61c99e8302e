// Writes with npm `@influxdata/influxdb-client`, and prints what its user sees: HOST PORT TOKEN.
const { InfluxDB, Point } = require("@influxdata/influxdb-client");

const [host, port, token] = process.argv.slice(2);
const silent = { maxRetries: 0 };
const api = (precision, options, password = token) =>
  new InfluxDB({ url: `http://${host}:${port}`, token: password }).getWriteApi("o", "metrics", precision, options);
const fail = (name) => (error) => console.log(name, error.statusCode, error.body);
// What it logs of retries is its own.
require("@influxdata/influxdb-client").setLogger({ warn() {}, error() {} });

(async () => {
  let write = api("s");
  const cpu = new Point("cpu").tag("host", "palm").floatField("value", 23.7).intField("n", 3);
  write.writePoint(cpu.booleanField("up", true).stringField("s", 'x "y", z').timestamp(1150864247));
  for (let index = 0; index < 2500; index++) {
    const point = new Point("batch").tag("core", String(index % 4)).floatField("value", index);
    write.writePoint(point.timestamp(index));
  }
  await write.close();
  write = api("ns");
  const disk = new Point("disk").tag("mount point", "/a b,c=d;e").floatField("free space", 1.5);
  write.writePoint(disk.timestamp(new Date("2006-06-21T04:30:47Z")));
  await write.close();
  for (const [unit, zeros] of [["s", ""], ["ms", "000"], ["us", "000000"], ["ns", "000000000"]]) {
    write = api(unit);
    write.writeRecord(`precision,unit=${unit} value=1${zeros} 1150864247${zeros}`);
    await write.close();
  }
  write = api("s", { gzipThreshold: 0 });
  write.writeRecord("gzip value=1 1150864247");
  await write.close();

  write = api("s", silent, "wrong-token");
  write.writeRecord("denied value=1");
  await write.close().catch(fail("denied"));
  write = api("s", silent);
  write.writeRecords(["partial value=1 1", "bad line here x"]);
  await write.close().catch(fail("invalid"));
  write = api("s", silent);
  write.writeRecord("full value=1");
  await write.close().catch(fail("full"));
  // By itself, after as many seconds as the server says.
  await new Promise((stored) => {
    write = api("s", {
      batchSize: 1,
      writeFailed: (error, lines, attempt) => console.log("retry", error.statusCode, error.retryAfter() > 0, attempt),
      writeSuccess: stored,
    });
    write.writeRecord("retried value=2 1150864247");
  });
  await write.close();
})().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
