"""The systems of `family.py`, all of one size, and the two worlds that they learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import drawn
from drawn import PATCH, SIDE, Sizes

from multiway.core.init import BEIT_STD, unit_gain
from multiway.data import emoji
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.recipes.scenes import PAPER
from multiway.systems.albef import ALBEFConfig
from multiway.systems.beit3_config import BEiT3Config, CaptionerConfig, RetrievalConfig
from multiway.systems.beit3_config import TextConfig as BEiT3Text
from multiway.systems.bert import BertConfig
from multiway.systems.blip_config import BLIPConfig, med_config
from multiway.systems.clip import CLIPConfig, CLIPTextConfig, clip_vit
from multiway.systems.coca_config import CoCaConfig, MultimodalConfig, PoolerConfig, coca_text, coca_vit
from multiway.systems.conv_tower import StemConfig
from multiway.systems.flip import FLIPConfig
from multiway.systems.generalist_config import GeneralistConfig
from multiway.systems.patches import ImageConfig
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.simvlm_config import SimVLMConfig
from multiway.systems.vilt_config import ViLTConfig, vilt_vit
from multiway.systems.vlmo_config import TextConfig as VLMoText
from multiway.systems.vlmo_config import VLMoConfig
from multiway.systems.vqvae import VQVAEConfig
from multiway.text import TokenizerConfig, train_vocabulary

SIZE: dict[str, Any] = {"width": 128, "heads": 4, "hidden": 512}
#: Of a picture; the same for all.
SEEN: dict[str, Any] = {"image_size": SIDE, "patch_size": PATCH, **PAPER}
IMAGE = SEEN | SIZE
WORDS = 28  # tokens of the longest text, start and end included
POSITIONS = 32
CODES = 128
PROMPT = "what is in the picture ?"  # what a caption answers; a question is its own prompt


@dataclass(frozen=True)
class Member:
    """One system, and what is fine-tuned on the same pairs where pre-training leaves a task open.

    Attributes:
        prompt: what the texts of pairs answer.
    """

    pretrain: Any
    after: dict[str, Any] = field(default_factory=dict)
    prompt: str | None = None

    @property
    def gain(self) -> float:
        """Of fresh linear maps: all systems begin as wide ones do, which some draw by their width anyhow."""
        if self.pretrain.system in ("clip", "flip", "coca"):
            return 1.0
        return unit_gain(SIZE["width"], BEIT_STD if self.pretrain.system == "beit3" else 0.02)


@dataclass(frozen=True)
class World:
    """Pairs to learn, pairs to be measured on, and the words of both.

    Attributes:
        data: seed -> the pairs. pictures: what visual tokens are found in, by k-means.
        test: held-back pairs; `first`: whose first texts alone count.
        questions, reasoning: seed -> training source of VQA and of two pictures; the last is the test.
        prompted: seed -> the questions of the same pictures with their answers, as texts.
    """

    vocabulary: Path
    data: Callable[[int], DataConfig]
    pictures: Callable[[int], Source]
    test: Source
    first: bool
    questions: tuple[Callable[[int], str], str] | None = None
    reasoning: tuple[Callable[[int], str], str] | None = None
    prompted: Callable[[int], str] | None = None

    @property
    def words(self) -> int:
        """Rows of the word table."""
        return len(self.vocabulary.read_text().splitlines())

    @property
    def tokenizer(self) -> TokenizerConfig:
        """One for all systems: WordPiece with [SEP] at the end."""
        return TokenizerConfig(vocab=str(self.vocabulary), cleaning="none", add_sep=True, max_length=WORDS)


def scenes(folder: Path, sizes: Sizes) -> World:
    """The drawn world of the other studies, with questions."""
    world = drawn.World(folder, sizes)
    world.prepare((0, 1, 2))
    pairs, two = world.tests()
    return World(
        vocabulary=world.vocabulary(),
        data=lambda seed: drawn.data(world.pairs(seed), seed),
        pictures=lambda seed: Source(path=world.pairs(seed)),
        test=Source(path=pairs),
        first=False,
        questions=(
            lambda seed: f"scenes:{sizes.reasoning}:{700 + seed}",
            f"scenes:{sizes.test_reasoning}:{drawn.TEST_SEED}",
        ),
        reasoning=(world.reasoning, two),
        prompted=lambda seed: f"prompts:question:{sizes.reasoning}:{700 + seed}",
    )


def drawings(folder: Path, sizes: Sizes) -> World:
    """The bundled emoji by the public protocol, measured on `combination`; nothing starts pretrained."""
    source = Source(path="emoji", split="train", texts="first")
    vocabulary = folder / "vocab.txt"
    if not vocabulary.exists():
        names = emoji.open_split("train")
        train_vocabulary((names.texts(i)[0] for i in range(len(names))), size=1500).save(folder)
    augment: Augment = MILD
    return World(
        vocabulary=vocabulary,
        data=lambda seed: DataConfig(
            train=(source,), image_size=SIDE, augment=augment, merge_equal_texts=True, seed=seed
        ),
        pictures=lambda seed: source,
        test=Source(path="emoji", split="combination", texts="first"),
        first=True,
    )


def members(world: World) -> dict[str, Member]:
    """Every system at one size: 128 wide, so deep that a picture and a text meet about six layers' weights.

    The momentum models and queues of ALBEF and BLIP are left out: the batch is the whole contrast, as in the
    others, and dropout is nowhere.
    """
    words, common = world.words, {"tokenizer": world.tokenizer}
    image, length = clip_vit(**IMAGE, depth=3), (2, WORDS)
    still: dict[str, Any] = {
        "temperature": 0.05,
        "temperature_range": (0.01, 0.5),
        "momentum": None,
        "queue_size": 0,
        "alpha": 0.0,
        "positives": "ids",
        "embed_dim": 128,
    }
    text = CLIPTextConfig(vocab_size=words, layers=3, positions=POSITIONS, **SIZE)
    towers: dict[str, Any] = {"image": image, "text": text, "embed_dim": 128, "positives": "ids", **common}
    plain = replace(image, clip_stem=False, eps=1e-6)
    bert = BertConfig(vocab_size=words, layers=2, fusion_layers=1, positions=POSITIONS, dropout=0.0, **SIZE)
    # its decoder and its matching head begin a text with words of their own
    beginnings = replace(world.tokenizer, extra=("[DEC]", "[ENC]"))
    med = med_config(vocab_size=words + 2, fusion_layers=3, positions=POSITIONS, dropout=0.0, **SIZE)
    half = coca_text(vocab_size=words, layers=2, positions=POSITIONS - 1, **SIZE)
    longest = WORDS + 16  # a prompt is read with its text
    both = PrefixConfig(vocab_size=words, encoder_layers=2, decoder_layers=2, positions=longest, **SIZE)
    multiway: dict[str, Any] = {"image": ImageConfig(**SEEN), "depth": 4, **SIZE}
    beit3: dict[str, Any] = multiway | {
        "form": "paper",
        "joint_layers": 1,
        "head_scale": unit_gain(4 * SIZE["width"]),
        "text": BEiT3Text(vocab_size=words, positions=POSITIONS + 2),
        **common,
    }
    writing: dict[str, Any] = {"label_smoothing": 0.0, "drop_worst": 0.0, "caption_length": length}
    vlmo_text = VLMoText(vocab_size=words, positions=POSITIONS, dropout=0.0)
    return {
        "clip": Member(CLIPConfig(**towers)),
        "flip": Member(FLIPConfig(drop=0.5, **towers)),
        "albef": Member(
            ALBEFConfig(image=plain, text=bert, rerank="itm+itc", mlm_probability=0.3, **still, **common)
        ),
        "vlmo": Member(
            VLMoConfig(
                text=vlmo_text,
                joint_layers=1,
                drop_path=0.0,
                relative_positions=POSITIONS,
                positives="ids",
                mlm_probability=0.3,
                mlm_weight=1.0,
                **multiway,
                **common,
            )
        ),
        "blip": Member(
            BLIPConfig(
                image=plain,
                text=med,
                rerank="itm+itc",
                label_smoothing=0.0,
                caption_length=length,
                tokenizer=beginnings,
                **still,
            )
        ),
        "coca": Member(
            CoCaConfig(
                image=coca_vit(**IMAGE, depth=3),
                text=half,
                multimodal=MultimodalConfig(layers=1, heads=4, hidden=512),
                pooler=PoolerConfig(queries=16, heads=4),
                embed_dim=128,
                positives="ids",
                caption_length=length,
                **common,
            )
        ),
        "beit3": Member(
            BEiT3Config(codes=CODES, pair_text_mask=0.4, **beit3),
            {
                "retrieval": RetrievalConfig(positives="ids", **beit3),
                "caption": CaptionerConfig(**beit3, **writing),
            },
        ),
        "vilt": Member(
            ViLTConfig(
                image=vilt_vit(**IMAGE, depth=6, dropout=0.0),
                text=replace(vlmo_text),
                longest_side=SIDE,
                max_patches=None,
                mlm_probability=0.3,
                **common,
            )
        ),
        "simvlm": Member(
            SimVLMConfig(
                image=StemConfig(image_size=SIDE, width=16, blocks=(1, 1, 1), **PAPER),
                text=PrefixConfig(
                    vocab_size=words, encoder_layers=3, decoder_layers=2, positions=POSITIONS, **SIZE
                ),
                prompt="",
                caption_length=length,
                **common,
            )
        ),
        "generalist": Member(
            GeneralistConfig(
                image=plain,
                text=both,
                pictures=VQVAEConfig(image_size=SIDE, strides=(4, 4), width=8, codes=2),  # none is drawn
                tokenizer=replace(world.tokenizer, turns=True, max_length=longest),
            ),
            prompt=PROMPT,
        ),
    }
