"""Text generation: greedy, beam and sampled search over one next-token protocol."""

from multiway.generation.config import GenerationConfig
from multiway.generation.protocol import Decoding, Generated
from multiway.generation.search import generate
from multiway.generation.trie import Trie

__all__ = ["Decoding", "Generated", "GenerationConfig", "Trie", "generate"]
