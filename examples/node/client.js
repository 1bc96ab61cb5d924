// Parts to the inspection server, from the protocol alone: one decision for the gate a part, in time, whatever happens.
//
//     npm ci && node client.js part1.png part2.png
//
// Without images on the command line, their paths are read from stdin, one a trigger. AGVAS_SERVER is host:port,
// AGVAS_DEADLINE_MS the time that the gate can wait.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const SERVER = process.env.AGVAS_SERVER ?? '127.0.0.1:50051';
const DEADLINE_MS = Number(process.env.AGVAS_DEADLINE_MS ?? 2000);
const PROTOS = process.env.AGVAS_PROTOS ?? path.join(__dirname, '..', '..', 'protos');
const CAMERA = 'example';
// What the gate does when the server says nothing that is known; the recipe's on_no_answer should be the same.
const GATE_WITHOUT_ANSWER = 'reject';
const VERDICTS = ['VERDICT_PASS', 'VERDICT_REJECT', 'VERDICT_NO_ANSWER'];
const GATES = { GATE_PASS: 'pass', GATE_REJECT: 'reject', GATE_STOP: 'stop' };

const definition = protoLoader.loadSync('agvas/v1/inspection.proto', {
  includeDirs: [PROTOS],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
});
const { Inspection } = grpc.loadPackageDefinition(definition).agvas.v1;
const client = new Inspection(SERVER, grpc.credentials.createInsecure(), {
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000, // gRPC's own would be two minutes
  'grpc.keepalive_time_ms': 10000, // a machine that vanished without a word is noticed
  'grpc.keepalive_timeout_ms': 10000,
});

// A camera's stream. It is opened again for the next part where it broke off or an answer was late.
class Line {
  // The server's answer, or a text that says why there is none by the deadline.
  decide(frame) {
    this.call ??= this.open();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.lost('no answer by the deadline'), DEADLINE_MS);
      this.settle = (found) => {
        clearTimeout(timer);
        this.settle = undefined;
        resolve(found);
      };
      this.trigger = frame.identity.trigger_id;
      this.call.write({ frame: { frame } });
    });
  }

  // End the stream and give up what is on its way.
  close() {
    this.call?.cancel();
    this.call = undefined;
  }

  open() {
    const call = client.Inspect(new grpc.Metadata({ waitForReady: true }));
    call.write({ open: { camera_id: CAMERA, defaults: { mask_format: 'MASK_FORMAT_NONE' } } });
    call.on('data', (event) => {
      // A heartbeat comes between answers, too: none for 3 s, no server.
      if (call === this.call && event.answer?.identity?.trigger_id === this.trigger) this.settle?.(event.answer);
    });
    call.on('error', (error) => call === this.call && this.lost(error.details || error.message));
    call.on('end', () => call === this.call && this.lost('the stream ended'));
    return call;
  }

  lost(reason) {
    this.close();
    this.settle?.(reason);
  }
}

// Verdict, gate and defect area; a reason where there is no result.
function told(found) {
  if (typeof found === 'string') return `NO_ANSWER, gate ${GATE_WITHOUT_ANSWER}, 0 px: ${found}`;
  if (!known(found)) return told(`found status ${found.status}, verdict ${found.verdict}, gate ${found.gate}`);
  const verdict = found.verdict.replace('VERDICT_', '');
  const reason = verdict === 'NO_ANSWER' ? `: ${found.reason}` : '';
  return `${verdict}, gate ${GATES[found.gate]}, ${found.defect_area_px} px${reason}`;
}

// Whether all is known that decides about the part; else its gate must not be taken.
function known(found) {
  return isName(found.status) && VERDICTS.includes(found.verdict) && found.gate in GATES;
}

// Whether an enum's value has a name: one that only a newer server knows is a number.
function isName(value) {
  return typeof value === 'string';
}

function statusOf(found) {
  if (typeof found === 'string') return 'LOST';
  return isName(found.status) ? found.status.replace('FRAME_STATUS_', '') : 'UNKNOWN';
}

// The file's content, or a text that says why there is none.
function contentOf(file) {
  try {
    return fs.readFileSync(file);
  } catch (error) {
    return error.message;
  }
}

// One call for one image, without a stream.
function segment(file) {
  const encoded = contentOf(file);
  if (typeof encoded === 'string') return encoded;
  const request = { frame: { encoded }, mask_format: 'MASK_FORMAT_NONE' };
  return new Promise((resolve) => {
    client.Segment(request, { deadline: Date.now() + DEADLINE_MS }, (error, reply) =>
      resolve(error ? error.details || error.message : reply),
    );
  });
}

// A frame with its identity, which comes back with the answer.
function frameFor(file, number) {
  const now = Date.now();
  const identity = {
    part_id: `part-${number}`,
    trigger_id: `trigger-${number}`,
    sequence: number,
    encoder_count: 4000 * number,
    capture_time: { seconds: Math.floor(now / 1000), nanos: (now % 1000) * 1e6 },
  };
  return { identity, encoded: contentOf(file) };
}

async function main() {
  const given = process.argv.slice(2);
  const line = new Line();
  let number = 0;
  for await (const file of given.length ? given : readline.createInterface({ input: process.stdin })) {
    number += 1;
    if (number === 1) console.log(`segment ${path.basename(file)}: ${told(await segment(file))}`);
    const frame = frameFor(file, number);
    const found = typeof frame.encoded === 'string' ? frame.encoded : await line.decide(frame);
    console.log(`${frame.identity.part_id} ${frame.identity.trigger_id}: ${statusOf(found)} ${told(found)}`);
  }
  line.close();
  client.close();
}

main();
