'use strict';
// Where a Python may be, best first. Nothing is started here and nothing is ruled out but what
// does not exist: whether an interpreter is fit is for the worker's first lines to say.

const fs = require('node:fs');
const path = require('node:path');

const WINDOWS = process.platform === 'win32';
// Machines whose python3 is old have newer ones beside it under their full names.
const VERSIONED = /^python3\.\d\d+$/;
// The tool cache names architectures as Node does, but for this one.
const TOOL_ARCH = { ia32: 'x86' }[process.arch] || process.arch;

// Newest first, by number: 3.10 is newer than 3.9.
function newestFirst(names) {
    return names.sort((a, b) => b.localeCompare(a, 'en', { numeric: true }));
}

function list(folder) {
    try {
        return fs.readdirSync(folder);
    } catch {
        return [];
    }
}

function* within(folders) {
    for (const folder of folders) yield path.join(folder, WINDOWS ? 'python.exe' : 'python3');
    if (WINDOWS) return;
    for (const folder of folders) {
        const versioned = newestFirst(list(folder).filter((name) => VERSIONED.test(name)));
        yield* versioned.map((name) => path.join(folder, name));
    }
    for (const folder of folders) yield path.join(folder, 'python');
}

function* toolCache(root) {
    const base = path.join(root, 'Python');
    for (const version of newestFirst(list(base))) {
        // The marker is written last: without it an installation was cut short.
        if (!fs.existsSync(path.join(base, version, `${TOOL_ARCH}.complete`))) continue;
        yield path.join(base, version, TOOL_ARCH, WINDOWS ? 'python.exe' : 'bin/python3');
    }
}

function* places(env) {
    // UsePythonVersion@0 sets the variable pythonLocation; it arrives upper-cased.
    const chosen = env.PYTHONLOCATION;
    if (chosen) yield* within(WINDOWS ? [chosen] : [path.join(chosen, 'bin')]);
    // An empty entry of PATH means the current folder: the sources, whose programs are not trusted.
    yield* within((env.PATH || '').split(path.delimiter).filter((f) => path.isAbsolute(f)));
    if (env.AGENT_TOOLSDIRECTORY) yield* toolCache(env.AGENT_TOOLSDIRECTORY);
    if (!WINDOWS) yield* within(['/usr/bin', '/usr/local/bin', '/opt/homebrew/bin']);
}

// Yields command lines without arguments for the worker, e.g. ['/usr/bin/python3'] or ['py', '-3'].
function* candidates(env) {
    const explicit = (env.INPUT_PYTHONPATH || '').trim();
    if (explicit) {
        yield [explicit];
        return;
    }
    const seen = new Set();
    for (const file of places(env)) {
        let identity;
        try {
            identity = fs.realpathSync(file);
        } catch (error) {
            if (error.code === 'ENOENT' || error.code === 'ENOTDIR') continue;
            identity = file; // The Microsoft Store's placeholders cannot be resolved.
        }
        if (seen.has(identity)) continue;
        seen.add(identity);
        yield [file];
    }
    if (WINDOWS) yield ['py', '-3'];
}

module.exports = { candidates };
