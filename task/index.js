'use strict';
// Finds a Python, hands the step over to the worker, and reports a result only where the worker
// cannot.
//
// The contract with pyworker/__main__.py:
//   exit 87           the worker ran and has reported its own result
//   UNFIT exit codes  this interpreter cannot run the worker: the next candidate is tried
//   anything else     the worker ended unexpectedly: the step fails here
// The worker gets the number of this process: without it, it could not tell a parent that was
// killed before the worker first looked from one that is alive.
// Microsoft's task library must not be loaded here: loading it deletes the inputs from the
// environment, and the worker would see none.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const path = require('node:path');
const { candidates } = require('./candidates.js');
const { removeLeftovers } = require('./leftovers.js');

const WORKER = path.join(__dirname, '..', 'pyworker');
// -I and -S: nothing of the repository, the user or the machine gets onto the module path.
// -B: the agent shares the task's folder between jobs, it stays as unpacked.
// -X utf8: the agent reads UTF-8 on every system, and -I ignores PYTHONUTF8.
const FLAGS = ['-I', '-S', '-B', '-X', 'utf8'];
const REPORTED = 87;
// 86 is the worker's own "not with this interpreter". The others come from what only looks like a
// Python: 0 is any program that ran no worker, 2 is Python 2 refusing -I, 126 and 127 are
// version-manager shims with nothing behind them, 9009 is the Microsoft Store's placeholder. The
// worker itself never ends with any of them.
const UNFIT = new Set([86, 0, 2, 126, 127, 9009]);
const NEEDED = 'SignImage needs 64-bit CPython 3.10 or newer';
const STATE = 'What it had pushed or signed by then is not known. The step can be run again.';

let child = null;
let canceled = false;

// The agent sends signals to this process alone. On Windows the console delivers them to the
// worker as well, and kill() there would end it before it could clean up.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGBREAK']) {
    process.on(signal, () => {
        canceled = true;
        if (child && process.platform !== 'win32') child.kill(signal);
    });
}

function escape(text) {
    return text.replace(/%/g, '%AZP25').replace(/\r/g, '%0D').replace(/\n/g, '%0A')
        .replace(/\]/g, '%5D').replace(/;/g, '%3B');
}

// The exit code stays 0: any other makes the agent add an error of its own that hides this one.
function fail(sentence) {
    process.stdout.write(`##vso[task.logissue type=error;]${escape(sentence)}\n`
        + `##vso[task.complete result=Failed;]${escape(sentence)}\n`);
}

// Resolves to [exit code, signal], or to [error code, null] if the program could not be started.
async function run(command) {
    // Never through a shell: shells drop variables with a "-" in their names, and endpoints and
    // secure files arrive in such. The environment is passed on whole; the worker scrubs it.
    child = spawn(command[0], [...command.slice(1), ...FLAGS, WORKER, String(process.pid)],
        { stdio: ['ignore', 'inherit', 'inherit'], windowsHide: true });
    try {
        return await once(child, 'exit');
    } catch (error) {
        return [error.code || error.message, null];
    } finally {
        child = null;
    }
}

// Why a candidate was no Python that could run the worker; an empty text if it ran it.
function unsuitability(code, signal) {
    if (signal) return '';
    const reasons = { ENOENT: 'not found', EACCES: 'no right to run it' };
    if (typeof code === 'string') return reasons[code] || code;
    return UNFIT.has(code) ? 'unsuitable' : '';
}

async function main() {
    const tried = [];
    for (const command of candidates(process.env)) {
        const [code, signal] = await run(command);
        if (code === REPORTED) return undefined;
        if (canceled) {
            removeLeftovers();
            return fail(`The step was canceled before the worker could report. ${STATE}`);
        }
        const reason = unsuitability(code, signal);
        if (!reason) {
            removeLeftovers();
            const how = signal ? `signal ${signal}` : `exit code ${code}`;
            return fail(`The worker ended unexpectedly (${how}). ${STATE}`);
        }
        tried.push(`${command.join(' ')} (${reason})`);
    }
    const explicit = (process.env.INPUT_PYTHONPATH || '').trim() !== '';
    const where = explicit ? 'on PATH under that name' : 'in any known place';
    fail(`${NEEDED}, and ${explicit ? 'the input pythonPath gives none' : 'none was found'}. `
        + `Tried: ${tried.join(', ') || `nothing, no Python is ${where}`}. `
        + (explicit ? 'Correct the input pythonPath or leave it empty.'
            : 'Install Python on the agent, add UsePythonVersion@0 before this step, '
            + 'or set the input pythonPath.'));
    return undefined;
}

main().catch((error) => fail(`The task could not start its worker: ${error.message}`));
