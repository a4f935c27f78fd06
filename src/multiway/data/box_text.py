"""Sentences about strips of boxes, in the manner of NLVR1's: how many towers, boxes or items are so.

And descriptions of boxes, for captions to pre-train on.
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


def describe(box: Box, speaker: Speaker, *, tower: bool, most: int) -> str:
    """All that is in a tower, from top to base; of scattered items how many there are, and what some are.

    `tower with 3 blocks black at the top over blue over yellow at the base`,
    `box with four items small blue circle touching the wall above big yellow square`.

    Args:
        most: items that are named, in the order of their upper edges.
    """
    count, many = speaker.number(len(box)), "s" * (len(box) > 1)
    if tower:
        colours = [block.colour for block in reversed(box)]
        ends = len(box) > 1 and speaker.draw.random() < 0.5
        said = " over ".join([colours[0] + " at the top" * ends, *colours[1:]]) + " at the base" * ends
        return f"tower with {count} block{many} {said}"
    named = sorted(speaker.draw.sample(box, min(len(box), most)), key=lambda item: item.y)
    items = [f"{i.size} {i.colour} {i.shape}{' touching the wall' * at_wall(i)}" for i in named]
    return f"box with {count} item{many} {' above '.join(items)}"
