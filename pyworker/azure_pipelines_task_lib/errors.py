"""Every error this library raises on purpose.

    TaskError
    ├── InputRequiredError       an input that must be set is not
    ├── PathNotFoundError        a path that must exist does not
    ├── ConnectionDataError      a service connection lacks data, or holds data that cannot be read
    ├── MultilineSecretError     the agent cannot mask a secret variable of several lines
    └── EnvironmentFormatError   the agent's own lists in the environment cannot be read

Messages are one sentence. Of all the values a step is given, only paths stand in them: any other
may be a secret, and an error text ends in a log.
"""


class TaskError(Exception):
    """Base of all errors below; `str(error)` is one sentence for the author of a pipeline."""


class InputRequiredError(TaskError):
    """An input that must be set is missing or empty."""


class PathNotFoundError(TaskError):
    """A path given as an input, or to a command that reads a file, does not exist."""


class ConnectionDataError(TaskError):
    """A service connection was not handed to this step as the step needs it."""


class MultilineSecretError(TaskError):
    """A secret variable has more than one line, which the agent refuses."""


class EnvironmentFormatError(TaskError):
    """The lists of variable names that the agent writes are not JSON lists of names."""
