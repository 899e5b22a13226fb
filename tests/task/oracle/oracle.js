'use strict';
// Microsoft's azure-pipelines-task-lib as a program: one case per line in, one answer per line out.
//
// Case:   {"environ": {NAME: value}, "calls": [[function, argument, ...], ...]}
// Answer: {"values": [...], "printed": [...], "environ": {...}}; a call that throws has the value
//         {"error": message}, an undefined value is null. A pattern is the argument {"pattern": text}.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'oracle-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

// The library loads its data when it is first required, and keeps its key in this folder.
clearEnvironment();
process.env.AGENT_TEMPDIRECTORY = folder;
const printed = [];
const stdout = process.stdout;
const silent = stdout.write;
stdout.write = () => true;
const library = require('azure-pipelines-task-lib/task');
const internal = require('azure-pipelines-task-lib/internal');
stdout.write = silent;
library.setStdStream({ write: (text) => printed.push(text) });

function clearEnvironment() {
  for (const name of Object.keys(process.env)) {
    delete process.env[name];
  }
}

function argumentOf(value) {
  return value !== null && typeof value === 'object' && 'pattern' in value
    ? new RegExp(value.pattern)
    : value;
}

function call([name, ...args]) {
  if (name === 'formatCommand') {
    return new library.TaskCommand(...args).toString();
  }
  try {
    const value = library[name](...args.map(argumentOf));
    return value === undefined ? null : value;
  } catch (error) {
    return { error: error.message };
  }
}

function answer(line) {
  const { environ, calls } = JSON.parse(line);
  clearEnvironment();
  Object.assign(process.env, environ, { AGENT_TEMPDIRECTORY: folder });
  printed.length = 0;
  internal._loadData();
  const values = calls.map(call);
  const left = { ...process.env };
  delete left.AGENT_TEMPDIRECTORY;
  return JSON.stringify({ values, printed, environ: left });
}

readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => stdout.write(`${answer(line)}\n`));
