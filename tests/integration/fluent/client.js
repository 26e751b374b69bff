// A Forward client that others wrote. One argument: JSON of its options. Prints one line of JSON for each chunk.
const fs = require("fs");
const { FluentClient } = require("@fluent-org/logger");

const chosen = JSON.parse(process.argv[2]);

function client() {
  const socket = { host: chosen.host, port: chosen.port, reconnect: { backoff: 2, delay: 10, maxDelay: 500 } };
  if (chosen.ca) socket.tls = { ca: fs.readFileSync(chosen.ca), servername: "localhost" };
  const options = {
    eventMode: chosen.mode,
    ack: { ackTimeout: chosen.ackTimeout || 10000 },
    socket,
    flushInterval: 10,
    milliseconds: true,
  };
  if (chosen.retries) options.eventRetry = { attempts: chosen.retries, delay: 50, maxDelay: 500 };
  if (chosen.sharedKey) {
    options.security = { clientHostname: "node-client", sharedKey: chosen.sharedKey };
    if (chosen.user) Object.assign(options.security, { username: chosen.user, password: chosen.password });
  }
  return new FluentClient(chosen.tag, options);
}

// Events of one kind, each with an id of its own: a chunk that is sent again here gets another name.
function numbered() {
  return Array.from({ length: chosen.count }, (_, number) => ({ ...chosen.record, "audit.record.id": `${number}`, run: `${number}` }));
}

async function main() {
  // Between two attempts nothing else keeps the process; a client that tries once ends when it is turned away.
  if (chosen.retries) setInterval(() => {}, 1000);
  const sender = client();
  await sender.connect();
  const results = await Promise.allSettled((chosen.records || numbered()).map((record) => sender.emit(record)));
  for (const result of results) {
    const said = result.status === "fulfilled" ? { acknowledged: true } : { error: result.reason.constructor.name };
    console.log(JSON.stringify(said));
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.log(JSON.stringify({ error: error.constructor.name, message: error.message }));
    process.exit(0);
  },
);
