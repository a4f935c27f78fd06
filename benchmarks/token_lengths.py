"""Record how many tokens the captions of a folder of shards have: counts alone, no caption.

python benchmarks/token_lengths.py SHARDS... > benchmarks/flickr8k_token_lengths.json
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

from multiway.text import Tokenizer, TokenizerConfig


def main(folders: list[str]) -> None:
    """Print {length: count} of all captions, [CLS] counted, cut to ALBEF's 25 tokens."""
    tokenizer = Tokenizer.load(TokenizerConfig())
    counts: Counter[int] = Counter()
    for path in (tar for folder in folders for tar in sorted(Path(folder).glob("*.tar"))):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".txt") else None
                if file is not None:
                    captions = file.read().decode().splitlines()
                    counts.update(int(n) for n in tokenizer([c for c in captions if c.strip()])[1].sum(1))
    print(json.dumps({str(length): counts[length] for length in sorted(counts)}))


if __name__ == "__main__":
    main(sys.argv[1:])
