"""What a bootstrapping run is: what is read, how texts are made and scored, and which of them are kept."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from multiway.errors import UserError
from multiway.train.run import read_json

Origin = Literal["web", "synthetic", "human"]

#: Fields that decide what is kept, and not what is scored: they may change on a finished run, at no model's
#: cost.
SELECTION = ("threshold", "keep", "source", "licence")
MATCHED = 0.5  # BLIP keeps what its ITM head calls matched
LARGEST_SIDE = 768  # pixels; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where no side falls below this


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """One run of CapFilt; the defaults are the paper's.

    Attributes:
        data: tars of web pictures and their texts (none, one or several a picture).
        human: tars of human pairs; they are taken over whole and unscored.
        captioner, filter: a model (folder, hub id, checkpoint), `module:function`, or an http(s) address;
            without a captioner web texts alone are filtered.
        captions: synthetic captions a picture.
        best_of: captions drawn for each one that is kept, the filter choosing; 1 takes the only one.
        method: `nucleus` sampling or `beam` search. top_p: of nucleus. beams: of beam search.
        min_length, max_length: new tokens of a caption; None takes the model's own.
        repetition_penalty: of tokens that are there already; BLIP's official nucleus sampling has 1.1.
        prompt: what the captions start with; None takes the model's own.
        batch_size: pictures a batch; batches are cut from the shard as it lies, whoever works on it.
        threads: of each worker; as many in every run, because sums of floats depend on it.
        seed: draws are a function of it and the picture's key alone.
        drop_duplicates: of near-duplicate pictures keep the first, human pairs before web pictures.
        keep_out: tars or folders of an evaluation set; pictures that nearly equal one of its are left out.
        threshold: texts that the filter scores below it are dropped; None is the filter's own (0.5 where it
            gives probabilities).
        keep: which kinds of text are written.
        source, licence: written where a sample's json names none.
    """

    data: tuple[str, ...]
    human: tuple[str, ...] = ()
    captioner: str | None = None
    filter: str
    captions: int = 1
    best_of: int = 1
    method: Literal["nucleus", "beam"] = "nucleus"
    top_p: float = 0.9
    beams: int = 3
    min_length: int | None = None
    max_length: int | None = None
    repetition_penalty: float = 1.0
    prompt: str | None = None
    batch_size: int = 32
    threads: int = 1
    seed: int = 0
    drop_duplicates: bool = False
    keep_out: tuple[str, ...] = ()
    threshold: float | None = None
    keep: tuple[Origin, ...] = ("web", "synthetic")
    source: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        for name in ("captions", "best_of", "batch_size", "threads", "beams"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a whole number of at least 1")
        if self.method == "beam" and self.captions * self.best_of > self.beams:
            raise UserError(
                f"beam search with {self.beams} beams has no {self.candidates} captions a picture: raise "
                "beams, or sample with method nucleus"
            )
        if not self.keep:
            raise UserError("keep is empty: name web, synthetic or both")
        if self.captioner is None and (self.candidates > 1 or self.keep == ("synthetic",)):
            raise UserError("there are no synthetic captions without a captioner: name one")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: give a share above 0 and at most 1")
        if not self.repetition_penalty > 0:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}: give a number above 0")
        least, most = self.min_length or 0, self.max_length
        if least < 0 or (most is not None and most < max(least, 1)):
            raise UserError(f"captions of {least} to {most} tokens: give lengths from 0 up, the longest last")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UserError(f"threshold is {self.threshold}: give the lowest score that is kept")

    @property
    def candidates(self) -> int:
        """Captions that the captioner makes of a picture."""
        return self.captions * self.best_of


def check_same(config: BootstrapConfig, folder: Path, *, begun: bool) -> None:
    """Refuse to go on in a folder that holds another run; what is kept of its texts may change.

    Args:
        begun: whether anything was captioned or scored; before, all may change.

    Raises:
        UserError: `folder/run.json` differs in what was captioned or scored; the sentence names the fields.
    """
    if not (folder / "run.json").exists():
        return
    saved, now = read_json(folder / "run.json").get("bootstrap"), plain(config)
    if not isinstance(saved, dict):
        raise UserError(f"{folder} holds a run that is no bootstrapping: choose another output folder")
    changed = [k for k, v in now.items() if k not in SELECTION and saved.get(k) != v]
    if changed and begun:
        raise UserError(
            f"{folder} was begun with another {', '.join(changed)}: give the same again to go on, or choose "
            "another output folder"
        )


def plain(config: BootstrapConfig) -> dict[str, Any]:
    """The config as JSON holds it."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
