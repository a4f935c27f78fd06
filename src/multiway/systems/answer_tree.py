"""A list of answers as a tree of their tokens, of which a decoder reads every node once.

```
   start --+-- red                       every node sees its ancestors, itself, and the question;
           +-- two --+-- dogs            log p(next word) at the nodes is added up along each answer
                     +-- cats
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multiway.core.block import Context
from multiway.systems.med import Decoder


@dataclass(frozen=True)
class Candidates:
    """A list of answers as a tree of their tokens; node 0 is the start, of which all answers grow.

    Attributes:
        texts: the answers. first: `[A]` each one's first word.
        tokens: `[N]` a node's token. depth: `[N]` how many tokens lie before it.
        ancestors: `[N, L]` the nodes on the way to a node, itself among them; -1: none.
        path: `[A, L]` an answer's nodes, the start first; -1 behind its last.
        following: `[A, L]` the token that follows at each of them, the end token at the last.
    """

    texts: tuple[str, ...]
    first: Int[Tensor, " A"]
    tokens: Int[Tensor, " N"]
    depth: Int[Tensor, " N"]
    ancestors: Int[Tensor, "N L"]
    path: Int[Tensor, "A L"]
    following: Int[Tensor, "A L"]

    @classmethod
    def of(
        cls, input_ids: Int[Tensor, "A T"], attention_mask: Int[Tensor, "A T"], texts: Sequence[str] = ()
    ) -> Candidates:
        """The tree of answers that begin with a start token and end with an end token."""
        rows = [
            ids[: int(n)] for ids, n in zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)
        ]
        length = max(map(len, rows)) - 1
        nodes: dict[tuple[int, ...], int] = {(): 0}
        ways, path, following = [[0]], [], []
        for row in rows:
            own = [0]
            for end in range(2, len(row)):
                words = tuple(row[1:end])
                if words not in nodes:
                    nodes[words] = len(nodes)
                    ways.append([*ways[own[-1]], nodes[words]])
                own.append(nodes[words])
            path.append(own + [-1] * (length - len(own)))
            following.append(row[1:] + [0] * (length - len(row) + 1))
        device = input_ids.device

        def table(rows: list) -> Tensor:
            return torch.tensor(rows, dtype=torch.long, device=device)

        ancestors = table([way + [-1] * (length - len(way)) for way in ways])
        tokens = table([rows[0][0], *(words[-1] for words in nodes if words)])
        depth = (ancestors >= 0).sum(1) - 1
        return cls(tuple(texts), input_ids[:, 1], tokens, depth, ancestors, table(path), table(following))


def tree_losses(
    writer: Decoder,
    context: Context,
    candidates: Candidates,
    kept: Int[Tensor, "G K"],
    *,
    start_id: int,
    smoothing: float = 0.0,
) -> Float[Tensor, "G K"]:
    """Cross-entropy of each kept answer, summed over its tokens, without padding and without repetition.

    Args:
        context: what the decoder looks at, a row a question. start_id: the token of node 0.
        smoothing: share of each target that is spread over all words.
    """
    path, following = candidates.path[kept], candidates.following[kept]
    real = path >= 0
    wanted = torch.zeros(len(kept), len(candidates.tokens), dtype=torch.long, device=kept.device)
    wanted.scatter_(1, path.clamp_min(0).flatten(1), 1)  # -1 is written as the start, which is wanted anyway
    counts = wanted.sum(1).tolist()
    nodes = wanted.sort(dim=1, descending=True, stable=True).indices[:, : max(counts)]
    place = wanted.cumsum(1) - 1  # where a wanted node lies among `nodes`
    sees = (candidates.ancestors[nodes][..., None] == nodes[:, None, None, :]).any(2)[:, None]
    tokens = candidates.tokens[nodes].masked_fill(nodes == 0, start_id)
    embedded = writer.embed(tokens.reshape(-1, 1), start=candidates.depth[nodes].flatten())
    hidden = writer.fusion(embedded.view(*nodes.shape, -1), mask=sees, context=context.copied())
    found = []
    for g, count in enumerate(counts):  # one question's logits at a time: nothing here is larger
        logits = writer.logits(hidden[g, :count])
        total, rows = logits.logsumexp(-1), place[g][path[g].clamp_min(0)]
        each = total[rows] - logits[rows, following[g]]
        if smoothing:
            each = torch.lerp(each, (total - logits.mean(-1))[rows], smoothing)
        found.append((each * real[g]).sum(-1))
    return torch.stack(found)
