"""The worker's gate: decides whether this interpreter fits, before anything else is read.

The rule of this file: whatever calls itself "python" on an agent must be able to read it, so it
keeps to the syntax that Python 2.7 shares with 3.  Exit code 86 tells the shim (task/index.js)
to try its next candidate; `startup` has the rest.
"""

import os
import signal
import sys

CANCELED = "The step was canceled. Nothing was pushed or signed."


# Annotations are no syntax of Python 2.
def cancel(_number, _frame):  # type: (int, object) -> None  # noqa: ANN001, ANN201 - see above
    """End at once, and say so: until `signimage.cancellation` listens there is nothing to undo.

    A KeyboardInterrupt would be lost in the callbacks that imports run, or end in a traceback.
    """
    for command in ("task.logissue type=error;", "task.complete result=Failed;"):
        os.write(1, ("##vso[" + command + "]" + CANCELED + "\n").encode("ascii"))
    os._exit(87)


signal.signal(signal.SIGINT, cancel)

if sys.version_info < (3, 10):  # noqa: UP036 - an agent's python may be older than the project's
    # Shown in the log only where the pipeline asks for details (System.Debug).
    sys.stdout.write("##vso[task.debug]not 3.10 or newer: Python " + sys.version.split()[0] + "\n")
    sys.exit(86)

# Its syntax is for those who passed the gate.
from startup import main  # noqa: E402 -- after the gate, and after the signal

status = main()
try:
    sys.stdout.flush()
    sys.stderr.flush()
finally:
    # At once: a question to a server may still be under way in a thread, and one that is inside of
    # OpenSSL while the interpreter is taken down ends the process by SIGSEGV, after its result.
    os._exit(status)
