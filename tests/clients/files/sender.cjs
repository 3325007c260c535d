// Sends events with the SDK of npm, in both modes: sender.cjs URL EVENTS. `sender.cjs read` validates those of its input.
const { readFileSync } = require("node:fs");
const { CloudEvent, HTTP } = require("cloudevents");

async function send(url, { headers, body }) {
  const answer = await fetch(url, { method: "POST", headers, body });
  const text = await answer.text();
  if (answer.status !== 204 || text !== "") throw new Error(`${answer.status} ${text}`);
}

async function main() {
  if (process.argv[2] === "read") {
    for (const event of JSON.parse(readFileSync(0, "utf8"))) new CloudEvent(event, true);
    return;
  }
  for (const event of JSON.parse(readFileSync(process.argv[3], "utf8"))) {
    const made = new CloudEvent(event, true);
    await send(process.argv[2], HTTP.binary(made));
    await send(process.argv[2], HTTP.structured(made));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
