"""Python runs this first: a process with DMD2_FAULT in its environment has that fault."""

import json
import os
import sys
from pathlib import Path

if "DMD2_FAULT" in os.environ:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import faulty

    faulty.begin(json.loads(os.environ["DMD2_FAULT"]))
