'use strict';
// Where a Python may be, best first. Nothing is started here and nothing is ruled out but what
// does not exist: whether an interpreter is fit is for the worker's first lines to say.

const fs = require('node:fs');
const path = require('node:path');

const WINDOWS = process.platform === 'win32';
// Machines whose python3 is old have newer ones beside it under their full names.
const VERSIONED = /^python3\.\d\d+$/;
// Apple's placeholder: a Python that is too old, or a dialogue that asks to install one.
const PLACEHOLDER = process.platform === 'darwin' ? '/usr/bin/python3' : '';
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

// An empty entry of PATH means the current folder: the sources, whose programs are not trusted.
function searched(env) {
    return (env.PATH || '').split(path.delimiter).filter((folder) => path.isAbsolute(folder));
}

function onPath(env, name) {
    return searched(env).map((folder) => path.join(folder, name)).filter((f) => fs.existsSync(f));
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
    yield* within(searched(env));
    if (env.AGENT_TOOLSDIRECTORY) yield* toolCache(env.AGENT_TOOLSDIRECTORY);
    if (!WINDOWS) yield* within(['/usr/bin', '/usr/local/bin', '/opt/homebrew/bin']);
}

// A name without a folder is looked up here: systems look for it in the current folder as well.
function named(explicit, env) {
    if (path.basename(explicit) !== explicit) return [explicit];
    const names = WINDOWS ? [`${explicit}.exe`, explicit] : [explicit];
    return names.flatMap((name) => onPath(env, name)).slice(0, 1);
}

// Yields command lines without arguments for the worker, e.g. ['/usr/bin/python3'], or the
// launcher of Windows with its option for Python 3.
function* candidates(env) {
    const explicit = (env.INPUT_PYTHONPATH || '').trim();
    if (explicit) {
        for (const file of named(explicit, env)) yield [file];
        return;
    }
    const seen = new Set();
    for (const file of places(env)) {
        if (file === PLACEHOLDER) continue;
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
    if (WINDOWS) yield* onPath(env, 'py.exe').map((file) => [file, '-3']);
}

module.exports = { candidates };
