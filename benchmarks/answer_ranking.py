"""Ranking 3,128 answers: BLIP here beside the official way, on transformers' BLIP with the same weights.

    python benchmarks/answer_ranking.py [--threads N] [--repeats N] [--questions N]

The official way (blip_vqa.py, `rank_answer`): the first token chooses 128 answers a question; then the
question's states are tiled 128 times, and every answer, padded to the longest of the list, is read over them.
Ours reads the tree of the 128 answers: every node once a question, over keys and values that are computed
once. The list is drawn: as many answers of each length, and about as many with a common first piece, as VQA
v2's common answers have in BERT's pieces. Both start from the question's states.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from beside import DEC, SEP, SIZES, arguments, interleave, peer, report, write
from torch import Tensor
from transformers import BlipForQuestionAnswering

from multiway.core.packed import packed
from multiway.systems.answer_tree import Candidates
from multiway.weights.hf_blip import from_transformers

#: Pieces of an answer -> answers, as in VQA v2's list; share of longer ones with a first piece of their own.
LENGTHS, OWN_START = {1: 1928, 2: 763, 3: 378, 4: 46, 5: 12, 6: 1}, 0.22
KEPT, SMOOTHING, TOLERANCE = 128, 0.1, 1e-4


def answers() -> tuple[Tensor, Tensor]:
    """Ids and mask of the list, [DEC] first and [SEP] last, padded to its longest answer."""
    draw = torch.Generator().manual_seed(3)
    words = (1000 + torch.randperm(29000, generator=draw)).tolist()
    short, fresh = words[: LENGTHS[1]], iter(words[LENGTHS[1] :])
    rows = [[word] for word in short]
    for length, count in LENGTHS.items():
        for _ in range(count if length > 1 else 0):
            own = float(torch.rand((), generator=draw)) < OWN_START
            first = next(fresh) if own else short[int(torch.randint(len(short), (), generator=draw))]
            rest = torch.randint(1000, 30000, (length - 1,), generator=draw).tolist()
            rows.append([first, *rest])
    tensors = [torch.tensor([DEC, *row, SEP]) for row in rows]
    lengths = torch.tensor([len(row) for row in tensors])
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--questions", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs = peer(BlipForQuestionAnswering, args.size)
    ours = packed(from_transformers(theirs.state_dict(), theirs.config.to_dict()).requires_grad_(False))
    draw, size = torch.Generator().manual_seed(1), SIZES[args.size]["image_size"]
    image = torch.randn(args.questions, 3, size, size, generator=draw)
    question = torch.randint(1000, 30000, (args.questions, 9), generator=draw)
    real = torch.ones_like(question)
    ids, mask = answers()
    candidates = Candidates.of(ids, mask)
    with torch.inference_mode():
        states = ours.question(image, question, real)

    def our_scores() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found = ours.rank(ours.answer_context(states, real), candidates, k=KEPT)
            return found.kept, found.score

    def their_logits(input_ids: Tensor, attention_mask: Tensor, seen: Tensor) -> Tensor:
        return theirs.text_decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        ).logits

    def their_scores() -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            start = torch.full((args.questions, 1), DEC)
            first = their_logits(start, torch.ones_like(start), states)[:, 0].softmax(1)
            kept = first[:, ids[:, 1]].topk(KEPT, dim=1).indices
            rows, tiled = kept.flatten(), states.repeat_interleave(KEPT, 0)
            logits = their_logits(ids[rows], mask[rows], tiled)[:, :-1]
            labels = ids[rows][:, 1:].masked_fill(mask[rows][:, 1:] == 0, -100)
            options = {"reduction": "none", "label_smoothing": SMOOTHING}
            each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), **options)
            return kept, -each.view(labels.shape).sum(1).view(kept.shape)

    (kept, own), (others, other) = our_scores(), their_scores()
    if not torch.equal(kept, others):
        sys.exit("error: the two do not choose the same answers by their first word")
    difference = float(((own - other).abs() / other.abs().clamp_min(1)).max())
    seconds = interleave({"multiway": our_scores, "official_way": their_scores}, args.repeats)
    setting = {
        "size": args.size,
        "questions": args.questions,
        "answers": len(ids),
        "kept": KEPT,
        "longest": ids.shape[1],
        "nodes": len(candidates.tokens),
    }
    figures = report(seconds, "multiway", setting=setting, largest_score_difference=difference)
    write(figures, args.out)
    for name, median in figures["median_seconds"].items():
        print(f"{name:<14}{args.questions / median:8.2f} questions a second")
    ratio = figures["speedup"]["official_way"]
    print(f"{ratio:.2f} times as fast as the official way; scores differ by {difference:.1e} of their size")
    if difference > TOLERANCE:
        sys.exit("error: the two do not give the same scores")


if __name__ == "__main__":
    main()
