"""Sentences about strips of boxes, in the manner of NLVR1's: how many towers, boxes or items are so.

And captions of one box, which say all that is in it: what a model can be pre-trained on.
"""

from __future__ import annotations

import random

from multiway.data.box_items import a_box, all_boxes, an_item, at_wall, beside, boxes_such, items_such
from multiway.data.box_speech import Claim, Speaker
from multiway.data.box_towers import a_block, a_tower, all_towers, blocks, ends, heights, towers_such
from multiway.data.boxes import Box


def make_claim(draw: random.Random, *, towers: bool) -> Claim:
    """A sentence about a strip of towers, or of scattered items."""
    speaker = Speaker(draw)
    kinds = (
        (towers_such, towers_such, towers_such, blocks, ends, all_towers, heights)
        if towers
        else (boxes_such, boxes_such, items_such, items_such, items_such, all_boxes, beside)
    )
    return speaker.pick(kinds)(speaker)


def make_simple_claim(draw: random.Random, *, towers: bool) -> Claim:
    """A sentence of one thing that is there: what a model learns first, before it counts and compares."""
    speaker = Speaker(draw)
    return speaker.pick((a_block, a_tower, a_tower, a_tower) if towers else (an_item, a_box))(speaker)


MOST_NAMED = 4  # items of a caption; of more, these are some


def describe_tower(tower: Box) -> str:
    """`tower with 3 blocks, black at the top over blue over yellow at the base`."""
    if len(tower) == 1:
        return f"tower with 1 block, {tower[0].colour}"
    top, *others = [block.colour for block in reversed(tower)]
    over = " over ".join(others)
    return f"tower with {len(tower)} blocks, {top} at the top over {over} at the base"


def describe_items(box: Box, draw: random.Random) -> str:
    """`box with 2 items, small blue circle touching the wall above big yellow square`, from top to bottom."""
    named = sorted(draw.sample(box, min(len(box), MOST_NAMED)), key=lambda item: item.y)
    items = [
        f"{item.size} {item.colour} {item.shape}{' touching the wall' * at_wall(item)}" for item in named
    ]
    return f"box with {len(box)} item{'s' * (len(box) > 1)}, {' above '.join(items)}"
