"""Write a synthetic corpus: `python tools/make_synthetic.py FOLDER --clips 300`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mmtraits.data.synthetic import write_corpus


def main() -> None:
    """Parse the arguments, write the corpus, say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip")
    parser.add_argument("--fps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes; one per core when not given")
    options = parser.parse_args()
    began = time.monotonic()
    path = write_corpus(
        options.folder, options.clips, options.seed, options.seconds, fps=options.fps, workers=options.workers
    )
    print(f"{path}: {options.clips} clips of {options.seconds:g} s in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
