"""A small decoder over our blocks, and the very same weights in transformers' BLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multiway.core.block import Block, Stack
from multiway.core.embed import WordEmbed
from multiway.core.heads import WordHead
from multiway.core.masks import causal
from multiway.systems.decoding import StackDecoding

VOCAB, WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS, CONTEXT = 97, 24, 3, 4, 40, 40, 20
START, EOS, PAD = 3, 4, 0


class Decoder(nn.Module):
    """Embeddings, blocks that all cross-attend, and a tied head."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = WordEmbed(VOCAB, WIDTH, positions=POSITIONS, types=0, eps=1e-12)
        self.stack = Stack(
            Block(WIDTH, HEADS, HIDDEN, context_width=CONTEXT, pre_norm=False, eps=1e-12)
            for _ in range(LAYERS)
        )
        self.head = WordHead(WIDTH, VOCAB, eps=1e-12)
        for parameter in self.parameters():  # large enough that sequences differ, and end at different times
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.35)
            else:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        self.head.bias.data[EOS] += 4
        self.eval()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.embed.words.weight)

    def decoding(self, tokens: Tensor) -> StackDecoding:
        return StackDecoding(self.embed, self.stack, self.logits, context=self.stack.context(tokens))


class Plain:
    """The same protocol by reading every row's whole text anew, its picture's tokens repeated for each."""

    def __init__(self, decoder: Decoder, tokens: Tensor):
        self.decoder, self.tokens, self.groups, self.vocab_size = decoder, tokens, len(tokens), VOCAB

    def room(self, prompt_length: int) -> int:
        return POSITIONS - prompt_length + 1

    def start(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = (
            [len(input_ids[0])] * len(input_ids) if attention_mask is None else attention_mask.sum(1).tolist()
        )
        self.texts = [row[:n] for row, n in zip(input_ids.tolist(), real, strict=True)]
        self.owner = list(range(len(self.texts)))
        return self._read()

    def step(self, tokens: Tensor, rows: Tensor) -> Tensor:
        self.owner = [self.owner[row] for row in rows.flatten().tolist()]
        chosen = zip(rows.flatten().tolist(), tokens.flatten().tolist(), strict=True)
        self.texts = [[*self.texts[row], token] for row, token in chosen]
        return self._read().view(*tokens.shape, -1)

    def _read(self) -> Tensor:
        out = []
        for text, owner in zip(self.texts, self.owner, strict=True):
            x = self.decoder.embed(torch.tensor([text]))
            context = self.decoder.stack.context(self.tokens[owner : owner + 1])
            hidden = self.decoder.stack(x, mask=causal(len(text)), context=context)
            out.append(self.decoder.logits(hidden[:, -1]))
        return torch.cat(out)


def pictures(count: int, seed: int = 0) -> Tensor:
    """Random picture tokens."""
    return 2 * torch.randn(count, 7, CONTEXT, generator=torch.Generator().manual_seed(seed))


def prompts(count: int) -> Tensor:
    return torch.tensor([[START, 10, 11]]).repeat(count, 1)


def transformers_twin(decoder: Decoder):
    """transformers' BLIP text decoder with these weights."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    config = BlipTextConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        encoder_hidden_size=CONTEXT,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        bos_token_id=START,
        eos_token_id=EOS,
        sep_token_id=EOS,
        pad_token_id=PAD,
        is_decoder=True,
    )
    twin = BlipTextLMHeadModel(config).eval()
    embed, head = twin.bert.embeddings, twin.cls.predictions
    pairs = [
        (embed.word_embeddings, decoder.embed.words),
        (embed.position_embeddings, decoder.embed.positions),
        (embed.LayerNorm, decoder.embed.norm),
        (head.transform.dense, decoder.head.dense),
        (head.transform.LayerNorm, decoder.head.norm),
    ]
    with torch.no_grad():
        for theirs, ours in zip(twin.bert.encoder.layer, decoder.stack, strict=True):
            pairs += [
                (theirs.attention.output.dense, ours.attention.out),
                (theirs.attention.output.LayerNorm, ours.norm1),
                (theirs.crossattention.self.query, ours.cross.query),
                (theirs.crossattention.output.dense, ours.cross.out),
                (theirs.crossattention.output.LayerNorm, ours.norm_cross),
                (theirs.intermediate.dense, ours.ffn["all"].fc1),
                (theirs.output.dense, ours.ffn["all"].fc2),
                (theirs.output.LayerNorm, ours.norm2["all"]),
            ]
            fused = [
                (theirs.attention.self, ("query", "key", "value"), ours.attention.qkv),
                (theirs.crossattention.self, ("key", "value"), ours.cross.key_value),
            ]
            for module, names, ours_fused in fused:
                for i, name in enumerate(names):
                    rows = slice(i * WIDTH, (i + 1) * WIDTH)
                    getattr(module, name).weight.copy_(ours_fused.weight[rows])
                    getattr(module, name).bias.copy_(ours_fused.bias[rows])
        for theirs, ours in pairs:
            theirs.load_state_dict(ours.state_dict())
        head.bias.copy_(decoder.head.bias)
        twin.tie_weights()
    return twin
