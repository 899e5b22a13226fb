'use strict';
// Microsoft's libraries for service connections and secure files as a program: one case per line
// in, one answer per line out. Their requests go where reroute.js sends them.
//
// Case:   {"environ": {NAME: value}, "call": name below, "arguments": [...]}
// Answer: {"value": what it gives, as JSON} or {"error": message}

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'oracle-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));

// The libraries read the environment when they are first required, and chat on standard output.
setEnvironment({});
const answerWith = process.stdout.write.bind(process.stdout);
process.stdout.write = () => true;
const internal = require('azure-pipelines-task-lib/internal');
const identity = require('@azure/identity');
const {
  isAllowedAcrHost,
} = require('azure-pipelines-tasks-docker-common/registryauthenticationprovider/registryhostvalidation');
const {
  getDockerRegistryEndpointAuthenticationToken,
} = require('azure-pipelines-tasks-docker-common/registryauthenticationprovider/registryauthenticationtoken');
const {
  SecureFileHelpers,
} = require('azure-pipelines-tasks-securefiles-common/securefiles-common');

const calls = {
  // As Docker@2 does: the login of a service connection, null if there is none.
  async login(connection) {
    const token = await getDockerRegistryEndpointAuthenticationToken(connection);
    return (
      token && {
        registry: token.getLoginServerUrl(),
        username: token.getUsername(),
        password: token.getPassword(),
      }
    );
  },
  // As DownloadSecureFile@1 does: the file, in base64.
  async download(file) {
    const name = await new SecureFileHelpers().downloadSecureFile(file);
    return fs.readFileSync(name, 'base64');
  },
  // As programs do that Azure Pipelines runs: access tokens of Microsoft Entra ID.
  async federated(tenant, client, connection, jobToken, scope) {
    const credential = new identity.AzurePipelinesCredential(tenant, client, connection, jobToken);
    return (await credential.getToken(scope)).token;
  },
  async managed(scope) {
    return (await new identity.ManagedIdentityCredential().getToken(scope)).token;
  },
  // Whether a host may get a token; Docker@2 asks behind a feature flag.
  async allowed(hosts) {
    return hosts.map(isAllowedAcrHost);
  },
};

function setEnvironment(environ) {
  for (const name of Object.keys(process.env)) {
    delete process.env[name];
  }
  Object.assign(process.env, environ, { AGENT_TEMPDIRECTORY: folder });
}

async function answer(line) {
  const { environ, call, arguments: given } = JSON.parse(line);
  setEnvironment(environ);
  internal._loadData();
  try {
    return { value: await calls[call](...given) };
  } catch (error) {
    // Promises are rejected with errors here, with texts there.
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    answerWith(`${JSON.stringify(await answer(line))}\n`);
  }
}

main();
