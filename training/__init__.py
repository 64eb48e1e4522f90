"""Training of Sensestream's embedded demo model: connected spoken digits in five languages."""

import os
from typing import Final

BLAS_THREADS: Final = "OPENBLAS_NUM_THREADS"
# Products here are of a few hundred rows: a second thread of numpy's only waits for the first, and
# takes the core of the process beside it. Read when numpy is loaded, hence here.
os.environ.setdefault(BLAS_THREADS, "1")
