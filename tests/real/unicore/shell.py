"""What UNICORE/X's embedded TSI takes for its shell: runs a job script as a batch system would. Knows no queue.

`shell.py PARENT SCRIPT`: the script's processes end as one, when they are told to, when their time limit is over, and
when UNICORE/X dies. The embedded TSI does none of that itself: it ends the shell and leaves what the shell began.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import emulators.step

GRACE_SECONDS = "2"


def main() -> None:
    """Becomes the keeper of the script's processes."""
    parent, script = sys.argv[1:3]
    # `#TSI_TIME` is in seconds; the header is what UNICORE/X tells a TSI of a job.
    limit = re.search(r"^#TSI_TIME (\d+)", Path(script).read_text(), re.MULTILINE)
    command = ["/bin/bash", script]
    if limit is not None:
        command = ["timeout", "--signal=TERM", f"--kill-after={GRACE_SECONDS}", limit[1], *command]
    step = emulators.step.__file__
    os.execv(sys.executable, [sys.executable, "-I", "-S", step, parent, GRACE_SECONDS, *command])


if __name__ == "__main__":
    main()
