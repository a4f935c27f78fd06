"""Keys and values, and those of the tokens decoded so far."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention layer, each `[B, H, N, d]`."""

    key: Float[Tensor, "B H N d"]
    value: Float[Tensor, "B H N d"]

    def select(self, index: Int[Tensor, " P"]) -> KeyValue:
        """Rows `index` of the batch: hard negatives reuse a picture's keys and values."""
        return KeyValue(self.key.index_select(0, index), self.value.index_select(0, index))


class Cache:
    """Keys and values of the tokens decoded so far, one entry a layer; an argument of a decoding call.

    Room is kept for more of them, so that a step writes its own and copies nothing.
    """

    def __init__(self, layers: int):
        self._room: list[KeyValue | None] = [None] * layers
        self._lengths = [0] * layers

    @property
    def length(self) -> int:
        """How many tokens are cached."""
        return self._lengths[0]

    def append(self, layer: int, new: KeyValue) -> KeyValue:
        """Append this step's keys and values to a layer and return all of them."""
        old, room = self._lengths[layer], self._room[layer]
        total = old + new.key.shape[2]
        if room is None or total > room.key.shape[2]:
            larger = KeyValue(*(_with_room(x, 2 * total) for x in (new.key, new.value)))
            if room is not None:
                _write(larger, 0, KeyValue(room.key[:, :, :old], room.value[:, :, :old]))
            room = self._room[layer] = larger
        _write(room, old, new)
        self._lengths[layer] = total
        return KeyValue(room.key[:, :, :total], room.value[:, :, :total])

    def of(self, layer: int) -> KeyValue | None:
        """All that a layer has cached."""
        room, length = self._room[layer], self._lengths[layer]
        return None if room is None else KeyValue(room.key[:, :, :length], room.value[:, :, :length])

    def forget(self, count: int) -> None:
        """Drop the last `count` tokens of every layer; the next ones are written over them."""
        self._lengths = [length - count for length in self._lengths]

    def select(self, index: Int[Tensor, " P"]) -> None:
        """Rows `index` of the batch, in place: rows may be reordered, repeated or left out."""
        self._room = [kv if kv is None else kv.select(index) for kv in self._room]


def _with_room(x: Float[Tensor, "B H T d"], length: int) -> Float[Tensor, "B H L d"]:
    return x.new_empty(*x.shape[:2], length, x.shape[3])


def _write(room: KeyValue, start: int, new: KeyValue) -> None:
    end = start + new.key.shape[2]
    room.key[:, :, start:end] = new.key
    room.value[:, :, start:end] = new.value
