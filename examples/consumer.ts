// Follows a table, works on each event, and goes on where it stood after any break: see README.md.
//
//     node --experimental-strip-types consumer.ts URL TABLE RESULTS GROUP [COUNT]
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

const [url, table, results, group, count] = process.argv.slice(2);
const place = `${group}.place`;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
type Event = { partition: number; offset: number; payload: unknown };

// Sends until there is an answer. With an idempotency key that stores it once.
async function post(path: string, body: unknown, fine: number[], headers: Record<string, string>) {
  for (;;) {
    const init = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers } };
    const answer = await fetch(url + path, { ...init, signal: AbortSignal.timeout(30_000) }).catch(() => undefined);
    const text = await answer?.text().catch(() => "");
    if (answer && (answer.ok || fine.includes(answer.status))) return;
    if (answer && answer.status < 500 && ![408, 429].includes(answer.status)) throw new Error(text);
    await sleep(1000 * Number(answer?.headers.get("Retry-After") ?? 0.5));
  }
}

async function work(event: Event) {
  const key = `"${table}/${event.partition}/${event.offset}"`;
  await post(`/tables/${results}`, { payload: { worked_on: event.payload } }, [], { "Idempotency-Key": key });
}

// Each event with the cursor behind it; no event for a ping or the end, which have a cursor too.
async function* events(cursor?: string): AsyncGenerator<[string | undefined, Event | undefined]> {
  const headers = { Accept: "text/event-stream", ...(cursor ? { "Last-Event-ID": cursor } : {}) };
  const answer = await fetch(`${url}/tables/${table}`, { headers });
  if (answer.status === 410) return yield [(await answer.json()).next_cursor, undefined];
  if (!answer.ok && answer.status < 500 && ![404, 408, 429].includes(answer.status)) throw new Error(await answer.text());
  if (!answer.ok || !answer.body) return;
  let rest = "";
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const fields = new Map(block.split("\n").map((line) => [line.split(":")[0], line.slice(line.indexOf(":") + 1).trim()]));
      cursor = fields.get("id") ?? cursor;
      const data = fields.has("event") ? undefined : fields.get("data");
      yield [cursor, data === undefined ? undefined : JSON.parse(data)];
    }
  }
}

let left = count === undefined ? Infinity : Number(count);
let cursor = existsSync(place) ? readFileSync(place, "utf8") : undefined;
while (left > 0) {
  try {
    for await (const [behind, event] of events(cursor)) {
      if (event) {
        await work(event);
        const commit = { table, partition: event.partition, offset: event.offset + 1 };
        await post(`/consumers/${group}/commit`, commit, [409], {});
        left -= 1;
      }
      cursor = behind;
      if (cursor) {
        writeFileSync(`${place}.new`, cursor);
        renameSync(`${place}.new`, place);
      }
      if (left <= 0) break;
    }
  } catch (error) {
    // What fetch cannot reach or what breaks off is a TypeError; the rest is a mistake of this program.
    if (!(error instanceof TypeError)) throw error;
  }
  await sleep(500);
}
process.exit(0);
