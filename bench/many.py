"""Many databases replicated by one process, as `ltx replicate` does it: `python -m bench.many LIST`.

The list is a JSON object: the path of each database, and the URL of its replica.
"""

import json
import sys
from pathlib import Path

from ltx.replication.config.values import Configuration, Place, Replicated
from ltx.replication.logs import log_to_stderr
from ltx.replication.run import prepare_process, run


def main() -> int:
    """Replicate what is listed until told to stop."""
    prepare_process()
    log_to_stderr(as_json=False)
    listed = json.loads(Path(sys.argv[1]).read_text())
    return run(Configuration(tuple(Replicated(Path(path), (Place(url),)) for path, url in listed.items())))


if __name__ == "__main__":
    sys.exit(main())
