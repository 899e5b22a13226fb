'use strict';
// Removes what a worker that was killed left behind; never throws.
//
// The worker keeps keys and credentials in <Agent.TempDirectory>/signimage-<random> and removes
// that folder itself. It cannot if it was killed.

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

function remove() {
    const temp = process.env.AGENT_TEMPDIRECTORY;
    if (!temp || !fs.existsSync(temp)) return;
    for (const folder of foldersBelow(temp)) {
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
