"""Sentences about strips of boxes, in the manner of NLVR1's: how many towers, boxes or items are so."""

from __future__ import annotations

import random

from multiway.data.box_items import all_boxes, beside, boxes_such, items_such
from multiway.data.box_speech import Claim, Speaker
from multiway.data.box_towers import all_towers, blocks, ends, heights, towers_such


def make_claim(draw: random.Random, *, towers: bool) -> Claim:
    """A sentence about a strip of towers, or of scattered items."""
    speaker = Speaker(draw)
    kinds = (
        (towers_such, towers_such, towers_such, blocks, ends, all_towers, heights)
        if towers
        else (boxes_such, boxes_such, items_such, items_such, items_such, all_boxes, beside)
    )
    return speaker.pick(kinds)(speaker)
