// nats.js as a child process: one command a line of JSON on the standard input, one answer a line
// on the standard output, and between the answers what the watchers see. It ends with its input.
import { createInterface } from "node:readline";
import { jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect } from "@nats-io/transport-node";

const nc = await connect({ servers: process.argv[2] });
const kvm = new Kvm(nc);
const jsm = await jetstreamManager(nc);

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const entry = (e) =>
  e && {
    key: e.key,
    value: Buffer.from(e.value).toString("base64"),
    revision: e.revision,
    operation: e.operation,
  };

async function all(iterator, convert) {
  const found = [];
  for await (const e of await iterator) found.push(convert(e));
  return found;
}

async function follow(id, iterator) {
  for await (const e of iterator) print({ watch: id, entry: entry(e) });
}

const commands = {
  async createBucket({ bucket, options }) {
    await kvm.create(bucket, options);
  },
  async deleteBucket({ bucket }) {
    await (await kvm.open(bucket)).destroy();
  },
  async describe({ bucket, description }) {
    await jsm.streams.update("KV_" + bucket, { description });
  },
  buckets: () => all(kvm.list(), (status) => status.bucket),
  async status({ bucket }) {
    const s = await (await kvm.open(bucket)).status();
    return {
      description: s.description,
      history: s.history,
      ttl: s.ttl,
      markerTTL: s.markerTTL,
      max_bytes: s.max_bytes,
      maxValueSize: s.maxValueSize,
      storage: s.storage,
      compression: s.compression,
      metadata: s.metadata,
      republish: s.republish,
    };
  },
  async put({ bucket, key, value }) {
    return (await kvm.open(bucket)).put(key, Buffer.from(value, "base64"));
  },
  async create({ bucket, key, value, ttl }) {
    return (await kvm.open(bucket)).create(key, Buffer.from(value, "base64"), ttl);
  },
  async update({ bucket, key, value, revision }) {
    return (await kvm.open(bucket)).update(key, Buffer.from(value, "base64"), revision);
  },
  async delete({ bucket, key, revision }) {
    await (await kvm.open(bucket)).delete(key, { previousSeq: revision });
  },
  async purge({ bucket, key, ttl }) {
    await (await kvm.open(bucket)).purge(key, { ttl });
  },
  async get({ bucket, key, revision, options }) {
    return entry(await (await kvm.open(bucket, options)).get(key, revision && { revision }));
  },
  async fields({ bucket, key }) {
    const e = await (await kvm.open(bucket)).get(key);
    return Object.getOwnPropertyNames(Object.getPrototypeOf(e));
  },
  async keys({ bucket, filter }) {
    return all((await kvm.open(bucket)).keys(filter), (key) => key);
  },
  async history({ bucket, key }) {
    return all((await kvm.open(bucket)).history({ key }), entry);
  },
  async watch({ id, bucket, options }) {
    const iterator = await (await kvm.open(bucket)).watch(options ?? {});
    follow(id, iterator);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    print({ result: await commands[command.op](command) });
  } catch (err) {
    print({ error: { name: err.name, message: err.message, code: err.code } });
  }
}
await nc.close();
