// An application on OpenTelemetry's own SDK for Node. One argument: JSON of its options. Prints how many records it sent.
const { Metadata } = require("@grpc/grpc-js");
const { BatchLogRecordProcessor, LoggerProvider } = require("@opentelemetry/sdk-logs");

const BATCH = 500;
const WAIT = 60000;
const chosen = JSON.parse(process.argv[2]);

function exporter() {
  const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${chosen.protocol}`);
  const authorization = `Bearer ${chosen.key}`;
  if (chosen.protocol !== "grpc") {
    return new OTLPLogExporter({ url: `${chosen.url}/v1/logs`, headers: { authorization }, timeoutMillis: WAIT });
  }
  const metadata = new Metadata();
  metadata.set("authorization", authorization);
  return new OTLPLogExporter({ url: `http://${chosen.url}`, metadata, timeoutMillis: WAIT });
}

async function main() {
  const batches = { maxQueueSize: 4 * BATCH, maxExportBatchSize: BATCH, exportTimeoutMillis: WAIT };
  const provider = new LoggerProvider({ processors: [new BatchLogRecordProcessor({ exporter: exporter(), ...batches })] });
  const logger = provider.getLogger("tests");
  for (let number = 0; number < chosen.count; number += 1) {
    logger.emit({ eventName: chosen.eventName, attributes: { ...chosen.attributes, run: `${number}` } });
    // Its queue is bounded and drops what does not fit, so whoever must not lose anything waits.
    if (number % BATCH === BATCH - 1) await provider.forceFlush();
  }
  await provider.shutdown();
  console.log(JSON.stringify({ sent: chosen.count }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
