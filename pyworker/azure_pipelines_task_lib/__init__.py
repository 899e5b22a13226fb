"""Azure Pipelines tasks in Python: a port of Microsoft's task library for Node.

It depends on the standard library only, knows nothing of what a task does, keeps no global state,
and begins with `Task(os.environ, standard_output())`.
"""

from azure_pipelines_task_lib.commands import IssueType, Result
from azure_pipelines_task_lib.environment import EndpointAuthorization, Variable
from azure_pipelines_task_lib.errors import (
    ConnectionDataError,
    EnvironmentFormatError,
    InputRequiredError,
    MultilineSecretError,
    PathNotFoundError,
    TaskError,
)
from azure_pipelines_task_lib.output import ByteStream, LineSink, standard_output
from azure_pipelines_task_lib.task import Task
from azure_pipelines_task_lib.text import is_unexpanded_macro, neutralise

__all__ = [
    "ByteStream",
    "ConnectionDataError",
    "EndpointAuthorization",
    "EnvironmentFormatError",
    "InputRequiredError",
    "IssueType",
    "LineSink",
    "MultilineSecretError",
    "PathNotFoundError",
    "Result",
    "Task",
    "TaskError",
    "Variable",
    "is_unexpanded_macro",
    "neutralise",
    "standard_output",
]
