"""What every system offers: losses that change nothing, one `advance` a step, and the user's verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Stack
from multiway.data.augment import Fit, KeptShape
from multiway.errors import UserError
from multiway.metrics.calibration import Calibration
from multiway.systems.image_tower import ImageTower
from multiway.systems.pictures import Picture, pair_count, prepared, transform_of
from multiway.systems.resizing import resize
from multiway.text import Tokenizer


class System(nn.Module):
    """The base of all systems.

    `losses` is a pure function of its arguments and the weights. Whatever moves once a step (momentum
    encoder, queue, ramps, clamps) is moved by `advance`, so that accumulation, activation checkpointing,
    compilation or a skipped step can't move it twice.

    Attributes:
        config: the system's own frozen dataclass, as its state and draws are its own.
        calibration: how matching becomes a probability; None: by the head's softmax.
        tokenizer: set by `multiway.create` and `multiway.load`.
        image_size, image_mean, image_std, image_fit: how pictures are prepared. image_tower: makes tokens.
        has_itm, has_itc: whether `match_pairs` can be asked, and whether there are features to compare.
        kept_shape: how pictures keep their shape; None: they are squashed to `image_size`.
        has_image, has_text: whether it reads pictures, and texts; alone: which it also learns from alone.
        parts: prefixes of parameter names in `vision`, `text` and `interaction` (`systems.parts`).
    """

    has_itm = False
    has_image = has_text = True
    alone: tuple[str, ...] = ()
    config: Any = None
    tokenizer: Tokenizer | None = None
    calibration: Calibration | None = None
    parts: dict[str, tuple[str, ...]]
    image_size: int | tuple[int, int]
    kept_shape: KeptShape | None = None
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @property
    def has_itc(self) -> bool:
        return type(self).image_context is not System.image_context

    @property
    def image_fit(self) -> Fit:
        return getattr(getattr(self.config, "image", None), "fit", "squash")

    if TYPE_CHECKING:  # a submodule in one system, a submodule's in another

        @property
        def image_tower(self) -> ImageTower: ...

    def losses(
        self, batch: Batch, state: Any, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Losses of one micro-batch.

        Args:
            state: from `init_state`; read, never changed.
            draws: the system's frozen dataclass of random choices; what is None is drawn from `generator`.

        Returns:
            0-d entries are losses, `loss` their weighted total; entries `enqueue/*` are rows for `advance`.
        """
        raise UserError(f"{type(self).__name__} has no losses to train by: take another system")

    def forward(
        self, batch: Batch, state: Any, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`losses`, under the name that data-parallel wrappers call."""
        return self.losses(batch, state, draws, generator)

    def init_state(self, *, steps_per_epoch: int = 1) -> nn.Module:
        """What moves once a step, as a module whose state dict is part of a checkpoint."""
        return nn.Module()

    def begin(self, state: Any) -> None:
        """Once, before the first step of a run: what the official forward does to a fresh model."""

    def advance(self, state: Any, outputs: Sequence[dict[str, Tensor]]) -> None:
        """Once after each optimizer step that was taken; `outputs` are the losses of its micro-batches."""

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a related system, under this one's names, to start from."""
        return tensors

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """The config of this system's network for `task` (retrieval, vqa, ...), which adopts these tensors.

        Args:
            labels: names of the classes, for a head that classifies.
        """
        raise UserError(f"{type(self).__name__} has no network for the task {task}: take another system")

    def predict(self, batch: Batch) -> Float[Tensor, "B K"]:
        """Logits of a fine-tuning network that classifies: a row a sample, a column a class."""
        raise UserError(f"{type(self).__name__} predicts no classes: fine-tune it with `multiway finetune`")

    def learn_from(self, model: nn.Module) -> None:
        """Take a frozen model whose outputs are this one's targets; it becomes a part of the state alone.

        Raises:
            UserError: the system has no such targets, or the model's do not fit.
        """
        raise UserError(f"{type(self).__name__} takes its targets from no other model: leave it out")

    def layer_of(self, name: str) -> tuple[int, int]:
        """(layer of a parameter, L) for layer decay: 0 embeddings, i + 1 block i of L, L + 1 what follows.

        Raises:
            UserError: the system says nothing of it.
        """
        raise UserError(f"{type(self).__name__} has no layer decay: leave train.layer_decay out")

    def resize(self, name: str, tensor: Tensor, old_grid: tuple[int, int] | None = None) -> Tensor | None:
        """A tensor of this model for pictures of another size, at this one's; None: it does not fit.

        Args:
            old_grid: the other one's patches (down, across); None: a square.
        """
        return resize(name, tensor, self.config.image.grid, old_grid)

    def start_from_text(self) -> None:
        """Once, after pretrained weights were put into the text stack: what else starts from them."""

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies: not to biases and gains (ALBEF, `optim_factory.add_weight_decay`)."""
        return not (parameter.ndim == 1 or name.endswith(".bias"))

    def set_checkpointing(self, on: bool) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for part in self.modules():
            if isinstance(part, Stack):
                part.checkpointing = on

    # Two-stage retrieval: encode each side once, then match chosen pairs.

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], Any]:
        """ITC features, and what `match_pairs` looks at (None without an ITM head).

        That is a `core.block.Context`, or `systems.fused.Tokens` where both are read together.

        Raises:
            UserError: the system has no contrastive features.
        """
        raise UserError(f"{type(self).__name__} has no contrastive features: take a model trained with ITC")

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Tensor]:
        """ITC features, and what `match_pairs` continues from: hidden states `[B, T, D]`, or ids `[B, T]`."""
        raise UserError(f"{type(self).__name__} has no contrastive features: take a model trained with ITC")

    def match_context(self, image: Float[Tensor, "B 3 H W"]) -> Any:
        """What `match_pairs` looks at, without features."""
        return self.image_context(image)[1]

    def match_text(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Tensor:
        """What `match_pairs` continues from, without features."""
        return self.text_context(input_ids, attention_mask)[1]

    def match_pairs(
        self, context: Any, hidden: Tensor, attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        """ITM logits (not matched, matched) of aligned pairs; `hidden` is `text_context`'s, by rows."""
        raise UserError(f"{type(self).__name__} has no matching head: rank by the contrastive score")

    def rerank_score(self, logits: Float[Tensor, "P 2"], cosine: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """What re-ranking orders by: the logit of "matched" alone, as ALBEF's Retrieval.py `evaluation`.

        Args:
            logits: from `match_pairs`. cosine: the pairs' ITC similarities.
        """
        return logits[:, 1]

    def match_probability(self, logits: Float[Tensor, "P 2"]) -> Float[Tensor, " P"]:
        """0..1 for ITM logits: the head's softmax, or what `multiway calibrate` fitted on gold pairs."""
        margin = (logits[:, 1] - logits[:, 0]).float()
        fitted = self.calibration
        return (margin if fitted is None else fitted.scale * margin + fitted.bias).sigmoid()

    # The user's verbs.

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def prepare(self, images: Picture | Sequence[Picture]) -> Float[Tensor, "B 3 H W"]:
        """Pictures resized and normalised for the image tower.

        Raises:
            UserError: a path does not exist or is not a picture.
        """
        return prepared(images, transform_of(self)).to(self.device)

    def tokenize(
        self, texts: str | Sequence[str], *, clean: bool = True
    ) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Token ids and attention mask of one or several texts; `clean` by the tokenizer's caption rule."""
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer: build it with multiway.create or multiway.load")
        ids, mask = self.tokenizer([texts] if isinstance(texts, str) else list(texts), clean=clean)
        return ids.to(self.device), mask.to(self.device)

    @torch.inference_mode()
    def encode_image(self, images: Picture | Sequence[Picture]) -> Float[Tensor, "B E"]:
        """Normalised features of pictures; their dot products with `encode_text`'s lie in -1..1."""
        return self.image_context(self.prepare(images))[0]

    @torch.inference_mode()
    def encode_text(self, texts: str | Sequence[str]) -> Float[Tensor, "B E"]:
        """Normalised features of texts."""
        return self.text_context(*self.tokenize(texts))[0]

    @torch.inference_mode()
    def match(self, images: Picture | Sequence[Picture], texts: str | Sequence[str]) -> Float[Tensor, " B"]:
        """Probability in 0..1 that pictures and texts belong together; one may be given for several others.

        Raises:
            UserError: the system has no ITM head, or the numbers of pictures and texts do not fit.
        """
        (ids, mask), image = self.tokenize(texts), self.prepare(images)
        rows = torch.arange(pair_count(len(image), len(ids)), device=self.device)
        of_picture, of_text = rows % len(image), rows % len(ids)
        context = self.match_context(image)
        if context is None:
            raise UserError(f"{type(self).__name__} has no ITM head: compare encode_image and encode_text")
        hidden = self.match_text(ids, mask)[of_text]
        return self.match_probability(self.match_pairs(context.select(of_picture), hidden, mask[of_text]))

    def caption(self, images: Picture | Sequence[Picture], *args: Any, **options: Any) -> list[str]:
        """Captions of pictures, where the system generates text."""
        raise UserError(f"{type(self).__name__} does not generate text: take a captioning system")

    def answer(self, images: Any, questions: Any, *args: Any, **options: Any) -> list[str]:
        """Answers to questions about pictures, where the system was fine-tuned for them."""
        raise UserError(f"{type(self).__name__} does not answer questions: fine-tune it for VQA")
