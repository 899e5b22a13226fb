'use strict';
// One step of the documented recipe for content trust, on the libraries that Microsoft's tasks are
// made of: node recipe.js login|download|build|push. Docker@2 and DownloadSecureFile@1 themselves
// are not on npm; what they add to this (labels, posts to Environments) is left out, in their favour.

const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');

const load = createRequire(path.join(__dirname, '..', 'task', 'oracle', 'package.json'));
const tl = load('azure-pipelines-task-lib/task');

async function connect() {
  const Connection = load('azure-pipelines-tasks-docker-common/containerconnection').default;
  const { getDockerRegistryEndpointAuthenticationToken } = load(
    'azure-pipelines-tasks-docker-common/registryauthenticationprovider/registryauthenticationtoken',
  );
  const endpoint = tl.getInput('containerRegistry');
  const connection = new Connection();
  connection.open(null, await getDockerRegistryEndpointAuthenticationToken(endpoint), true, false);
  return connection;
}

function images(connection) {
  const name = connection.getQualifiedImageName(tl.getInput('repository'), true);
  return tl.getDelimitedInput('tags', '\n').map((tag) => `${name}:${tag}`);
}

const steps = {
  async login() {
    (await connect()).setDockerConfigEnvVariable();
  },
  async download() {
    // Loaded for the time it takes; its own download first asks the server for the way to itself,
    // which the benchmark's does not know. One request less, again in the recipe's favour.
    load('azure-pipelines-tasks-securefiles-common/securefiles-common');
    const id = tl.getInput('secureFile');
    const project = encodeURIComponent(tl.getVariable('System.TeamProject'));
    const ticket = encodeURIComponent(tl.getSecureFileTicket(id));
    const address = `${tl.getVariable('System.TeamFoundationCollectionUri')}${project}`
      + `/_apis/distributedtask/securefiles/${id}?ticket=${ticket}&download=false`;
    const token = tl.getEndpointAuthorizationParameter('SYSTEMVSSCONNECTION', 'ACCESSTOKEN', false);
    const headers = { Accept: 'application/octet-stream', Authorization: `Bearer ${token}` };
    const answer = await fetch(address, { headers });
    if (!answer.ok) throw new Error(`the secure file: ${answer.status}`);
    const file = path.join(tl.getVariable('Agent.TempDirectory'), tl.getSecureFileName(id));
    fs.writeFileSync(file, Buffer.from(await answer.arrayBuffer()));
  },
  async build() {
    const docker = load('azure-pipelines-tasks-docker-common/dockercommandutils');
    const connection = await connect();
    const file = tl.getInput('Dockerfile');
    const given = docker.getCommandArguments(tl.getInput('arguments'));
    await docker.build(connection, file, given, [], images(connection), () => {});
    connection.close(true, 'build');
  },
  async push() {
    const docker = load('azure-pipelines-tasks-docker-common/dockercommandutils');
    const connection = await connect();
    const given = docker.getCommandArguments(tl.getInput('arguments'));
    for (const image of images(connection)) {
      await docker.push(connection, image, given, () => {});
    }
    connection.close(true, 'push');
  },
};

steps[process.argv[2]]().catch((error) => {
  console.error(error.message || error);
  process.exitCode = 1;
});
