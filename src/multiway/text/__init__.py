"""Text in, token ids out: tokenizers, caption cleaning and the shipped vocabularies."""

from multiway.text.tokenizer import Cleaning, Tokenizer, TokenizerConfig
from multiway.text.training import train_vocabulary

__all__ = ["Cleaning", "Tokenizer", "TokenizerConfig", "train_vocabulary"]
