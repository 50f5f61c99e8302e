// Writes with npm `influx`, and prints what its user sees: HOST PORT TOKEN.
const { InfluxDB, toNanoDate } = require("influx");

const [host, port, token] = process.argv.slice(2);
const connect = (password) =>
  new InfluxDB({ host, port: Number(port), username: "anyone", password, database: "metrics" });

(async () => {
  const client = connect(token);
  const [pinged] = await client.ping(5000);
  console.log("ping", pinged.online, pinged.version);
  await client.createDatabase("metrics");
  console.log("databases", await client.getDatabaseNames());

  const fields = { value: 23.7, n: 3, up: true, s: 'x "y", z' };
  await client.writePoints([{ measurement: "cpu", tags: { host: "palm" }, fields, timestamp: 1150864247 }], {
    precision: "s",
  });
  await client.writeMeasurement("disk", [
    {
      tags: { "mount point": "/a b,c=d;e" },
      fields: { "free space": 1.5 },
      timestamp: new Date("2006-06-21T04:30:47Z"),
    },
  ]);
  for (const [unit, scale] of [["s", 1], ["ms", 1e3], ["u", 1e6], ["n", 1e9]]) {
    const timestamp = unit === "n" ? toNanoDate("1150864247000000000") : 1150864247 * scale;
    const point = { measurement: "precision", tags: { unit }, fields: { value: scale }, timestamp };
    await client.writePoints([point], { precision: unit });
  }
  const batch = [];
  for (let index = 0; index < 2500; index++) {
    batch.push({
      measurement: "batch",
      tags: { core: String(index % 4) },
      fields: { value: index },
      timestamp: index,
    });
  }
  await client.writePoints(batch, { precision: "s" });

  const one = (measurement, value) => [{ measurement, fields: { value }, timestamp: 1150864247 }];
  await connect("wrong-token").writePoints(one("denied", 1)).catch((error) => console.log("denied", error.message));
  await client.query("SELECT value FROM cpu").catch((error) => console.log("query", error.message));
  // It reports nothing but the status at first, and then tries no host until its pause is over.
  for (let attempt = 0; attempt < 100; attempt++) {
    try {
      await client.writePoints(one("retried", 2), { precision: "s" });
      console.log("stored");
      break;
    } catch (error) {
      if (error.message !== "No host available") console.log("full", error.message);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
})().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
