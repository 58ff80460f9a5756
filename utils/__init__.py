"""What every script needs and what knows nothing of pruning: engine, run directories, files, flags, plots.

Any Python 3 can read this file: it says which one is wanted.
"""

import sys

if sys.version_info < (3, 10):
    sys.stderr.write("error: {} is Python {}.{}, and 3.10 or later is needed; bash scripts/setup.sh makes .venv, then use "
                     ".venv/bin/python\n".format(sys.executable, *sys.version_info[:2]))
    sys.exit(2)
