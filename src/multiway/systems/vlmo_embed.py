"""VLMo's word embeddings."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from multiway.core.embed import WordEmbed
from multiway.systems.vlmo_config import MultiwayConfig


class TextEmbed(WordEmbed):
    """BERT's embeddings; where positions are relative, its table of positions is kept and never read.

    The row of BERT's [PAD] gets no gradient.
    """

    def __init__(self, config: MultiwayConfig):
        text = config.text
        super().__init__(
            text.vocab_size,
            config.width,
            positions=text.positions,
            types=text.types,
            eps=text.eps,
            dropout=text.dropout,
        )
        if config.tokenizer.kind == "wordpiece":  # row 0 is another token's elsewhere
            self.words.padding_idx = 0
        self.relative = config.positions == "relative"
        self.positions.requires_grad_(not self.relative)

    def forward(
        self, input_ids: Int[Tensor, "B T"], *, start: int | Int[Tensor, " B"] = 0
    ) -> Float[Tensor, "B T D"]:
        if not self.relative:
            return super().forward(input_ids, start=start)
        assert self.types is not None  # BERT has them
        return self.dropout(self.norm(self.words(input_ids) + self.types.weight[0]))
