"""The console script `speechprune`, outside of the package: importing that takes seconds.

Whatever has to hold meanwhile is seen to here, without touching whoever imports the library.
"""

from __future__ import annotations

import sys
import warnings

_INTERRUPTED = 130


def main() -> None:
    """Import the commands and run one; ends with exit status 130 on Ctrl-C, whenever it comes."""
    # What newer libraries think of fairseq's code is nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        from speechprune.tools.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("speechprune: error: interrupted\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
