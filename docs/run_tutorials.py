"""Run the tutorials and write what each prints beside it: `python docs/run_tutorials.py [name ...]`.

Times are replaced by `...`, and the names of temporary folders by `/tmp/folder`: neither is a result.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "tutorials"


def cleaned(text: str) -> str:
    """Return printed text without times and temporary names."""
    text = re.sub(r"\b\d+(\.\d+)? s\b", "... s", text)
    text = re.sub(r"/tmp/tmp\w+", "/tmp/folder", text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def main(names: list[str]) -> int:
    """Run tutorials; names: without suffix, all of them if empty."""
    failed = 0
    for script in sorted(FOLDER.glob("*.py")):
        if names and script.stem not in names:
            continue
        start = time.perf_counter()
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        print(f"{script.stem}: exit code {done.returncode}, {time.perf_counter() - start:.0f} s")
        if done.returncode:
            failed += 1
            print(done.stdout[-2000:], done.stderr[-2000:])
        else:
            script.with_suffix(".out").write_text(cleaned(done.stdout))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
