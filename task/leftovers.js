'use strict';
// Removes what a worker that was killed left behind; never throws.
//
// The worker keeps keys and credentials in <Agent.TempDirectory>/signimage-<random> and removes
// that folder itself. It cannot if it was killed; then a program that it had started goes on, too.

const fs = require('node:fs');
const path = require('node:path');

function foldersBelow(temp) {
    const own = process.getuid ? process.getuid() : null;
    return fs.readdirSync(temp, { withFileTypes: true })
        // A link is not a directory here, so nothing outside of the folder is ever entered.
        .filter((entry) => entry.isDirectory() && entry.name.startsWith('signimage-'))
        .map((entry) => path.join(temp, entry.name))
        .filter((folder) => own === null || fs.lstatSync(folder).uid === own);
}

function isRunBy(pid, folder) {
    try {
        const environment = fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
        return environment.some((each) => each.startsWith(`DOCKER_CONFIG=${folder}${path.sep}`));
    } catch {
        return false; // It has ended, or is none of ours.
    }
}

// What a killed worker had started is known by the private configuration that it was given.
function endPrograms(folder) {
    if (process.platform !== 'linux') return;
    const numbers = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name));
    for (const pid of numbers.filter((each) => isRunBy(each, folder))) {
        try {
            process.kill(Number(pid), 'SIGKILL');
        } catch {
            // It has ended by itself.
        }
    }
}

function remove() {
    const temp = process.env.AGENT_TEMPDIRECTORY;
    if (!temp || !fs.existsSync(temp)) return;
    for (const folder of foldersBelow(temp)) {
        endPrograms(folder);
        // Retries are for Windows, where a dying process holds its files for a moment.
        fs.rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    }
}

function removeLeftovers() {
    try {
        remove();
    } catch (error) {
        // The agent empties the same folder when the job ends; a note is all that is left to do.
        console.log(`SignImage could not remove its temporary files (${error.code || error.name}).`);
    }
}

module.exports = { removeLeftovers };
