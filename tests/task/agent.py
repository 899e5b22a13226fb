"""A stand-in for the Azure Pipelines agent: runs a packaged task the way a Linux agent runs it.

The rules, each a documented habit of the real one:

1. The environment is built in order: the agent's own, the step's `env`, variables, inputs,
   endpoints, secure files, task variables; later entries overwrite earlier ones.
2. Names are upper-cased, blanks and dots become underscores; hyphens stay, so ids keep theirs.
3. A step sees only those endpoints and secure files that one of its inputs names.
4. How node is run and canceled is in `agent_process`, what its output means in `agent_model`.

What the agent would not notice is written down as well: files left in Agent.TempDirectory, files
changed in the task's folder, processes that outlive the step.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from task.agent_model import Issue, Masker, Record, Restrictions, merge_results
from task.agent_process import AgentError, NodeProcess, adopted_orphans, changes, tree

__all__ = ["Agent", "AgentError", "Endpoint", "SecureFile", "Step", "StepResult", "mangle"]

_MACRO = re.compile(r"\$\(([^()]+)\)")
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HANDLERS = ("Node24", "Node20_1", "Node16", "Node10", "Node")  # in the agent's order
# Endpoint parameters that the agent does not treat as secrets.
_NOT_MASKED = frozenset(
    {"role", "scope", "tenantid", "issuedat", "expiresat", "audience", "authenticationtype"}
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service connection as the server sends it with the job."""

    id: str
    url: str
    scheme: str
    parameters: Mapping[str, str] = field(repr=False)
    data: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def registry(cls, registry: str, username: str, password: str) -> "Endpoint":
        """Make a Docker registry connection of the kind "Others"."""
        parameters = {
            "registry": registry,
            "username": username,
            "password": password,
            "email": "",
        }
        url = "https://hub.docker.com/"
        data = {"registrytype": "Others"}
        return cls(str(uuid.uuid4()), url, "UsernamePassword", parameters, data)

    @property
    def secrets(self) -> list[str]:
        """The values that the agent masks: yes, user name and registry are among them."""
        return [value for key, value in self.parameters.items() if key.lower() not in _NOT_MASKED]

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of this endpoint under the id *name*."""
        auth = {"parameters": dict(self.parameters), "scheme": self.scheme}
        entries = {
            f"ENDPOINT_URL_{name}": self.url,
            f"ENDPOINT_AUTH_{name}": json.dumps(auth, separators=(",", ":")),
            f"ENDPOINT_AUTH_SCHEME_{name}": self.scheme,
        }
        for key, value in self.parameters.items():
            entries[f"ENDPOINT_AUTH_PARAMETER_{name}_{mangle(key)}"] = value
        if self.data:
            entries[f"ENDPOINT_DATA_{name}"] = json.dumps(dict(self.data), separators=(",", ":"))
        for key, value in self.data.items():
            entries[f"ENDPOINT_DATA_{name}_{mangle(key)}"] = value
        return entries


@dataclass(frozen=True, slots=True)
class SecureFile:
    """A secure file of the library, with this job's ticket for it."""

    id: str
    name: str
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline, as YAML has it; inputs may be spelled in any letter case.

    `cancel_when` is asked about each line written; at its first yes the job is canceled.
    `restrictions` is what the step's `target` adds to those of the task.
    """

    inputs: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)
    name: str = "step"
    restrictions: Restrictions | None = None
    cancel_when: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a step: as people see it, as later steps see it, and what it left behind.

    Paths in `leftovers` and `changed_task_files` are relative to Agent.TempDirectory and to the
    task's folder; `orphans` are the command lines of processes that outlived the step.
    """

    result: str
    message: str
    issues: tuple[Issue, ...]
    variables: Mapping[str, str]
    outputs: Mapping[str, str]
    task_variables: Mapping[str, str]
    secrets: tuple[str, ...]
    log: tuple[str, ...]
    raw_lines: tuple[str, ...]
    spoken: tuple[str, ...]
    progress: tuple[tuple[int, str], ...]
    completes: tuple[str, ...]
    attachments: Mapping[tuple[str, str], bytes]
    exit_code: int
    streams_held: bool
    leftovers: tuple[str, ...]
    changed_task_files: tuple[str, ...]
    orphans: tuple[str, ...]

    @property
    def errors(self) -> list[str]:
        """The messages of the error issues."""
        return [issue.message for issue in self.issues if issue.type == "error"]

    @property
    def warnings(self) -> list[str]:
        """The messages of the warning issues."""
        return [issue.message for issue in self.issues if issue.type == "warning"]

    @property
    def summary(self) -> str:
        """All summaries that were uploaded, as one text."""
        texts = [
            content.decode()
            for (type_, _), content in self.attachments.items()
            if type_ == "Distributedtask.Core.Summary"
        ]
        return "\n".join(texts)


@dataclass(slots=True)
class Agent:
    """An agent with one job: its folders, variables, service connections and secure files.

    `environ` is the agent's own environment, which every step inherits. `collection_uri` ends in
    a slash. `variables` and `secret_variables` are the pipeline's, by their original names.
    """

    folder: Path
    collection_uri: str = "http://127.0.0.1:9/nowhere/"
    token: str = field(default="job-token-of-nobody", repr=False)
    project: str = "Some Project"
    project_id: str = "6d1fbb54-0b1b-4d3c-9c62-3e6a3b8f2a55"
    host_type: str = "build"
    node: str = "node"
    environ: Mapping[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    secret_variables: dict[str, str] = field(default_factory=dict, repr=False)
    endpoints: list[Endpoint] = field(default_factory=list)
    secure_files: list[SecureFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        for folder in (self.sources, self.temp, self.tools, self.tasks, self.staging):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def sources(self) -> Path:
        """System.DefaultWorkingDirectory: the checkout, or the artifacts of a release."""
        return self.folder / "_work" / "1" / ("s" if self.host_type == "build" else "a")

    @property
    def staging(self) -> Path:
        """Build.ArtifactStagingDirectory."""
        return self.folder / "_work" / "1" / "staging"

    @property
    def temp(self) -> Path:
        """Agent.TempDirectory."""
        return self.folder / "_work" / "_temp"

    @property
    def tools(self) -> Path:
        """Agent.ToolsDirectory."""
        return self.folder / "_work" / "_tool"

    @property
    def tasks(self) -> Path:
        """The folder that holds unpacked tasks."""
        return self.folder / "_work" / "_tasks"

    def run(self, task: Path, step: Step) -> StepResult:
        """Run *step* with the task that is unpacked in the folder *task*."""
        return self._run(task, step, "execution", {})

    def run_post_job(self, task: Path, step: Step, after: StepResult) -> StepResult:
        """Run the task's clean-up as the agent does at the end of the job, whatever happened."""
        return self._run(task, step, "postjobexecution", after.task_variables)

    def environment(
        self, definition: Mapping[str, Any], step: Step, task_variables: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the whole environment of node for *step*."""
        inputs = self._inputs(definition, step)
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        environ |= self.environ
        environ |= {name: self._expand(value) for name, value in step.env.items()}
        environ |= self._variable_environment()
        environ |= {f"INPUT_{mangle(name)}": value for name, value in inputs.items()}
        for endpoint in self._named_endpoints(definition, inputs):
            environ |= endpoint.environment(endpoint.id)
        environ |= self._system_connection().environment("SYSTEMVSSCONNECTION")
        for file in self._named_files(definition, inputs):
            environ[f"SECUREFILE_NAME_{file.id}"] = file.name
            environ[f"SECUREFILE_TICKET_{file.id}"] = file.ticket
        for name, value in task_variables.items():
            environ[f"VSTS_TASKVARIABLE_{mangle(name)}"] = value
        return environ | {"TF_BUILD": "True"}

    def _inputs(self, definition: Mapping[str, Any], step: Step) -> dict[str, str]:
        given = {name.lower(): value for name, value in step.inputs.items()}
        inputs = {}
        for declared in definition["inputs"]:
            name = declared["name"]
            default = declared.get("defaultValue", "")
            stated = default if isinstance(default, str) else json.dumps(default)
            value = given.pop(name.lower(), stated)
            # Trimmed first: blanks that come in by a variable survive.
            inputs[name] = self._expand(value.strip())
            if declared["type"] == "filePath":
                inputs[name] = os.path.normpath(self.sources / inputs[name])
        # The agent passes on what the task does not declare.
        return inputs | {name: self._expand(value.strip()) for name, value in given.items()}

    def _expand(self, text: str) -> str:
        known = {**self._all_variables(), **self.secret_variables}
        values = {name.lower(): value for name, value in known.items()}
        return _MACRO.sub(lambda macro: values.get(macro[1].lower(), macro[0]), text)

    def _named_endpoints(
        self, definition: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> list[Endpoint]:
        types = {entry["name"]: entry["type"] for entry in definition["inputs"]}
        named = [
            part.strip().lower()
            for name, value in inputs.items()
            if types.get(name, "").startswith("connectedService:")
            for part in value.split(",")
            if _GUID.fullmatch(part.strip())
        ]
        return [endpoint for endpoint in self.endpoints if endpoint.id.lower() in named]

    def _named_files(
        self, definition: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> list[SecureFile]:
        types = {entry["name"]: entry["type"] for entry in definition["inputs"]}
        named = [value.lower() for name, value in inputs.items() if types.get(name) == "secureFile"]
        return [file for file in self.secure_files if file.id.lower() in named]

    def _system_connection(self) -> Endpoint:
        return Endpoint(
            "SystemVssConnection", self.collection_uri, "OAuth", {"AccessToken": self.token}
        )

    def _variable_environment(self) -> dict[str, str]:
        variables = self._all_variables()
        secrets = {**self.secret_variables, "System.AccessToken": self.token}
        environ = {mangle(name): value for name, value in variables.items()}
        environ |= {f"SECRET_{mangle(name)}": value for name, value in secrets.items()}
        environ["agent.jobstatus"] = variables["Agent.JobStatus"]
        environ["VSTS_PUBLIC_VARIABLES"] = json.dumps(list(variables))
        environ["VSTS_SECRET_VARIABLES"] = json.dumps(list(secrets))
        return environ

    def _all_variables(self) -> dict[str, str]:
        return {**self._well_known(), **self.variables}

    def _well_known(self) -> dict[str, str]:
        sources = str(self.sources)
        known = {
            "Agent.HomeDirectory": str(self.folder),
            "Agent.Id": "7",
            "Agent.IsSelfHosted": "1",
            "Agent.JobName": "Job",
            "Agent.JobStatus": "Succeeded",
            "Agent.MachineName": "machine",
            "Agent.Name": "agent 7",
            "Agent.OS": "Linux",
            "Agent.OSArchitecture": "X64",
            "Agent.RootDirectory": str(self.folder / "_work"),
            "Agent.TempDirectory": str(self.temp),
            "Agent.ToolsDirectory": str(self.tools),
            "Agent.Version": "4.270.0",
            "Agent.WorkFolder": str(self.folder / "_work"),
            "System.ArtifactsDirectory": str(self.folder / "_work" / "1" / "a"),
            "System.CollectionUri": self.collection_uri,
            "System.Culture": "en-US",
            "System.DefaultWorkingDirectory": sources,
            "System.HostType": self.host_type,
            "System.JobId": "12f1170f-54f2-53f3-20dd-22fc7dff55f9",
            "System.PlanId": "9a2b5f1e-6a5b-4c8c-a5b0-6cf1cfa3f6e2",
            "System.ServerType": "Hosted",
            "System.TeamFoundationCollectionUri": self.collection_uri,
            "System.TeamProject": self.project,
            "System.TeamProjectId": self.project_id,
        }
        return known | (self._build_variables() if self.host_type == "build" else _RELEASE)

    def _build_variables(self) -> dict[str, str]:
        return {
            "Agent.BuildDirectory": str(self.folder / "_work" / "1"),
            "Build.ArtifactStagingDirectory": str(self.staging),
            "Build.BuildId": "4711",
            "Build.BuildNumber": "20261122.3",
            "Build.BuildUri": "vstfs:///Build/Build/4711",
            "Build.DefinitionName": "team image",
            "Build.Reason": "Manual",
            "Build.Repository.Name": "team/app",
            "Build.Repository.Provider": "TfsGit",
            "Build.Repository.Uri": "https://example.invalid/team/_git/app",
            "Build.SourceBranch": "refs/heads/main",
            "Build.SourceBranchName": "main",
            "Build.SourcesDirectory": str(self.sources),
            "Build.SourceVersion": "3b7f0a9ac1d1f2f4c0a1e0b9a8d7c6b5a4938271",
        }

    def _run(
        self, task: Path, step: Step, phase: str, task_variables: Mapping[str, str]
    ) -> StepResult:
        definition = json.loads((task / "task.json").read_text("utf-8"))
        argv = [_program(self.node), str(task / _target(definition, phase))]
        environ = self.environment(definition, step, task_variables)
        record = self._record(definition, step)
        temp_before, task_before = tree(self.temp), tree(task)
        with adopted_orphans() as orphans:
            process = NodeProcess(
                argv, environ, self.sources, record.feed, step.cancel_when, self._patience_s()
            )
            exit_code, streams_held = process.run()
        if exit_code != 0 and not process.canceled:
            what = f"file name '{argv[0]}', arguments '\"{argv[1]}\"'"
            record.issue("error", f"Exit code {exit_code} returned from process: {what}.")
            record.result = merge_results(record.result, "Failed")
        canceled = "Canceled" if process.canceled else None
        return StepResult(
            result=canceled or record.result or "Succeeded",
            message=record.message,
            issues=tuple(record.issues),
            variables=record.variables,
            outputs={f"{step.name}.{name}": value for name, value in record.outputs.items()},
            task_variables=record.task_variables,
            secrets=tuple(record.secrets),
            log=tuple(record.log),
            raw_lines=tuple(record.raw_lines),
            spoken=tuple(record.spoken),
            progress=tuple(record.progress),
            completes=tuple(record.completes),
            attachments=record.attachments,
            exit_code=exit_code,
            streams_held=streams_held,
            leftovers=self._leftovers(temp_before, record),
            changed_task_files=changes(task_before, tree(task)),
            orphans=tuple(orphans),
        )

    def _leftovers(self, before: Mapping[str, tuple[int, int]], record: Record) -> tuple[str, ...]:
        """What the step left, but for files that it handed over and the folders they are in."""
        handed = [path for each in record.handed for path in (each, *each.parents)]
        left = changes(before, tree(self.temp))
        return tuple(name for name in left if self.temp / name not in handed)

    def _patience_s(self) -> tuple[float, float]:
        defaults = {"PROCESS_SIGINT_TIMEOUT": "7500", "PROCESS_SIGTERM_TIMEOUT": "2500"}  # ms
        sigint, sigterm = (int(self.variables.get(*knob)) / 1000 for knob in defaults.items())
        return sigint, sigterm

    def _record(self, definition: Mapping[str, Any], step: Step) -> Record:
        secrets = [*self.secret_variables.values(), self.token]
        secrets += [value for endpoint in self.endpoints for value in endpoint.secrets]
        secrets += [file.ticket for file in self.secure_files]
        restrictions = [Restrictions.of(definition), *filter(None, [step.restrictions])]
        declared = definition.get("outputVariables", [])
        return Record(
            Masker(secrets),
            restrictions=tuple(restrictions),
            output_names=frozenset(entry["name"].lower() for entry in declared),
            host_type=self.host_type,
            debug=self.variables.get("System.Debug", "").lower() == "true",
        )


_RELEASE = {
    "Release.DefinitionName": "team release",
    "Release.EnvironmentName": "production",
    "Release.ReleaseId": "42",
    "Release.ReleaseName": "Release-42",
    "Release.ReleaseWebUrl": "https://example.invalid/team/_release?releaseId=42",
}


def mangle(name: str) -> str:
    """Return the environment's spelling of a name; hyphens are kept."""
    return name.replace(".", "_").replace(" ", "_").upper()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise AgentError(f"{name}: not installed. Run packaging/setup.sh as root")
    return found


def _target(definition: Mapping[str, Any], phase: str) -> str:
    handlers = definition.get(phase, {})
    for name in _HANDLERS:
        if name in handlers:
            return str(handlers[name]["target"])
    raise AgentError(f"task.json: {phase} has no handler that the agent knows")
