// A Forward server that others wrote. One argument: JSON of its options. Prints its port, then each entry as JSON.
const fs = require("fs");
const { FluentServer } = require("@fluent-org/logger");

const chosen = JSON.parse(process.argv[2]);
const options = { listenOptions: { host: "127.0.0.1", port: chosen.port } };
if (chosen.key) options.tlsOptions = { key: fs.readFileSync(chosen.key), cert: fs.readFileSync(chosen.certificate) };
if (chosen.sharedKey) {
  options.security = { serverHostname: "node-server", sharedKey: chosen.sharedKey };
  if (chosen.users) Object.assign(options.security, { authorize: true, userDict: chosen.users });
}

const server = new FluentServer(options);
server.on("entry", (tag, time, record) => {
  const seconds = typeof time === "object" ? [time.epoch, time.nano] : [time, 0];
  console.log(JSON.stringify({ tag, time: seconds, record }));
});
server.listen().then(() => console.log(JSON.stringify({ port: chosen.port })));
process.stdin.on("end", () => process.exit(0)).resume();
