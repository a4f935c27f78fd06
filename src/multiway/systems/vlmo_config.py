"""Configs of VLMo and of its fine-tuning networks; the defaults are the official ones of the base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from multiway.core.gather import Gradient
from multiway.errors import UserError
from multiway.systems.patches import ImageConfig
from multiway.systems.sizes import check_heads, check_positions
from multiway.text import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Word embeddings as BERT has them.

    Attributes:
        positions: longest text in tokens; rows of the table of absolute positions.
        types: rows of BERT's own table of token types, of which the first is added.
    """

    vocab_size: int = 30522
    positions: int = 40
    types: int = 2
    eps: float = 1e-12
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class MultiwayConfig:
    """The multiway transformer; the defaults are VLMo's base.

    Attributes:
        depth: layers. heads: of each. hidden: width of a feed-forward's middle.
        joint_layers: layers on top that have a joint expert too; below, a pair's tokens go through the
            experts of their own modality.
        types: rows of the table that tells text (0) from picture (1, and 2 for a second one).
        layer_scale: initial gain on each residual branch, or None for no such gains.
        drop_path: rate at the last layer, growing linearly from 0.
        positions: relative, in one table for all layers, or absolute (base plus).
        relative_positions: longest text that the relative table is made for, through all stages.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: TokenizerConfig(cleaning="none", add_sep=True, max_length=40)
    )
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    eps: float = 1e-6
    joint_layers: int = 2
    types: int = 2
    layer_scale: float | None = 0.1
    drop_path: float = 0.1
    positions: Literal["relative", "absolute"] = "relative"
    relative_positions: int = 196

    def __post_init__(self) -> None:
        check_heads(self.heads, self.width, of="system.heads")
        if self.types < 2:
            raise UserError(
                f"system.types is {self.types}: give 2, for text and picture, or 3 for two pictures"
            )
        if not 0 <= self.joint_layers <= self.depth:
            raise UserError(
                f"system.joint_layers is {self.joint_layers}: give 0 to the {self.depth} layers there are"
            )
        longest = self.tokenizer.max_length
        check_positions(self.text.positions, longest)
        if self.positions == "relative":
            check_positions(self.relative_positions, longest, of="system.relative_positions")

    def sizes(self) -> dict[str, Any]:
        """The fields of the network itself, which its fine-tuning networks keep."""
        return {f.name: getattr(self, f.name) for f in fields(MultiwayConfig)}


@dataclass(frozen=True, kw_only=True)
class VLMoConfig(MultiwayConfig):
    """VLMo's pre-training, on pairs or, as the stage before, on texts alone (config.py of the official code).

    Attributes:
        stage: `text` learns words alone, with the loss of MLM unweighted and without joint experts.
        itm_weight, mlm_weight: in the stage of pairs; 0 leaves a loss out.
        mlm_probability: share of masked tokens. whole_word: mask whole words.
        logit_scale: initial value of both, a logarithm.
        positives: `pair`: only a picture's own text; `ids`: all rows with equal `batch.ids`.
        negatives: candidates of ITC and ITM from all ranks' batches, or from this rank's.
        gradient: what gathered ITC features carry; the official code's carry this rank's own gradient alone,
            so that averaging over ranks divides ITC's weight by their number (`core.gather`).
    """

    system: Literal["vlmo"] = "vlmo"
    stage: Literal["text", "pairs"] = "pairs"
    itm_weight: float = 1.0
    mlm_weight: float = 0.25
    mlm_probability: float = 0.15
    whole_word: bool = True
    logit_scale: float = 2.6592600369327783  # ln(1 / 0.07)
    positives: Literal["pair", "ids"] = "pair"
    negatives: Literal["local", "global"] = "global"
    gradient: Gradient = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage == "text" and self.joint_layers:
            raise UserError("system.joint_layers is for pairs: set it to 0 where system.stage is text")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(MultiwayConfig):
    """The dual encoder alone (`irtr` of the official code); fields as in `VLMoConfig`."""

    system: Literal["vlmo_retrieval"] = "vlmo_retrieval"
    logit_scale: float = 2.6592600369327783
    positives: Literal["pair", "ids"] = "pair"
    negatives: Literal["local", "global"] = "global"
    gradient: Gradient = "own"


@dataclass(frozen=True, kw_only=True)
class AnswerConfig(MultiwayConfig):
    """Questions about pictures, as a choice among answers.

    Attributes:
        labels: the answers, row by row of the head.
    """

    system: Literal["vlmo_vqa"] = "vlmo_vqa"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReasoningConfig(MultiwayConfig):
    """Is a text true of two pictures (NLVR2)?"""

    system: Literal["vlmo_nlvr2"] = "vlmo_nlvr2"
    types: int = 3


NETWORKS = {"retrieval": RetrievalConfig, "nlvr2": ReasoningConfig, "vqa": AnswerConfig}


def network_config(
    model: Any, task: str, labels: tuple[str, ...], networks: Mapping[str, type] | None = None
) -> Any:
    """The config of `model`'s network for a task.

    Args:
        networks: of each task the class of its config; None: those of VLMo.

    Raises:
        UserError: there is no network for it.
    """
    known = NETWORKS if networks is None else networks
    if task not in known:
        name = type(model).__name__.removesuffix("Config")
        raise UserError(f"{name} has no network for the task {task}: it has networks for {', '.join(known)}")
    own: dict[str, Any] = {"nlvr2": {"types": 3}, "vqa": {"labels": labels}}.get(task, {})
    if task == "retrieval":  # how pairs are compared, where this model does, stays
        names = {f.name for f in fields(known[task])} - {"system"}
        own = {f.name: getattr(model, f.name) for f in fields(model) if f.name in names}
    return known[task](**(model.sizes() | own))
