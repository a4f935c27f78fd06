"""The systems, by name. Each entry's functions import inside their bodies, so that listing is instant."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Entry:
    """One system: its paper, and functions that give its config class and its network class."""

    paper: str
    config: Callable[[], type]
    network: Callable[[], type]


def _entry(paper: str, config: str, network: str) -> Entry:
    """An entry whose classes are named as `file:Class`."""
    return Entry(paper, partial(_class, config), partial(_class, network))


def _class(name: str) -> type:
    module, kind = name.split(":")
    return getattr(importlib.import_module(f"multiway.systems.{module}"), kind)


ALBEF_PAPER = "Li et al. 2021, arXiv:2107.07651"
BEIT3_PAPER = "Wang et al. 2022, arXiv:2208.10442"
BEIT_PAPER = "Bao et al. 2021, arXiv:2106.08254"
BLIP_PAPER = "Li et al. 2022, arXiv:2201.12086"
CLIP_PAPER = "Radford et al. 2021, arXiv:2103.00020"
COCA_PAPER = "Yu et al. 2022, arXiv:2205.01917"
DVAE_PAPER = "Ramesh et al. 2021, arXiv:2102.12092"
FLIP_PAPER = "Li et al. 2022, arXiv:2212.00794"
GENERALIST_PAPER = "after Lu et al. 2022, arXiv:2206.08916"
MAE_PAPER = "He et al. 2021, arXiv:2111.06377"
SIMVLM_PAPER = "Wang et al. 2021, arXiv:2108.10904"
VILT_PAPER = "Kim et al. 2021, arXiv:2102.03334"
VLMO_PAPER = "Bao et al. 2021, arXiv:2111.02358"
VQKD_PAPER = "Peng et al. 2022, arXiv:2208.06366"
VQVAE_PAPER = "van den Oord et al. 2017, arXiv:1711.00937"

SYSTEMS: dict[str, Entry] = {
    "albef": _entry(ALBEF_PAPER, "albef:ALBEFConfig", "albef:ALBEF"),
    "beit": _entry(BEIT_PAPER, "beit_config:BEiTConfig", "beit:BEiT"),
    "beit3": _entry(BEIT3_PAPER, "beit3_config:BEiT3Config", "beit3:BEiT3"),
    "blip": _entry(BLIP_PAPER, "blip_config:BLIPConfig", "blip:BLIP"),
    "clip": _entry(CLIP_PAPER, "clip:CLIPConfig", "clip:CLIP"),
    "coca": _entry(COCA_PAPER, "coca_config:CoCaConfig", "coca:CoCa"),
    "flip": _entry(FLIP_PAPER, "flip:FLIPConfig", "flip:FLIP"),
    "generalist": _entry(GENERALIST_PAPER, "generalist_config:GeneralistConfig", "generalist:Generalist"),
    "mae": _entry(MAE_PAPER, "mae:MAEConfig", "mae:MAE"),
    "simvlm": _entry(SIMVLM_PAPER, "simvlm_config:SimVLMConfig", "simvlm:SimVLM"),
    "vilt": _entry(VILT_PAPER, "vilt_config:ViLTConfig", "vilt:ViLT"),
    "vlmo": _entry(VLMO_PAPER, "vlmo_config:VLMoConfig", "vlmo:VLMo"),
    "vqkd": _entry(VQKD_PAPER, "vqkd:VQKDConfig", "vqkd:VQKD"),
    "vqvae": _entry(VQVAE_PAPER, "vqvae:VQVAEConfig", "vqvae:VQVAE"),
}

#: The systems, and the fine-tuning networks that are saved and loaded by their own names.
NETWORKS: dict[str, Entry] = SYSTEMS | {
    "albef_assignment": _entry(
        ALBEF_PAPER, "albef_assignment:AssignmentConfig", "albef_assignment:TextAssignment"
    ),
    "albef_nlvr2": _entry(ALBEF_PAPER, "albef_nlvr:NLVRConfig", "albef_nlvr:PairModel"),
    "albef_ve": _entry(ALBEF_PAPER, "albef_heads:EntailmentConfig", "albef_heads:EntailmentModel"),
    "albef_vqa": _entry(ALBEF_PAPER, "albef_vqa:VQAConfig", "albef_vqa:AnswerModel"),
    "beit_classify": _entry(BEIT_PAPER, "beit_config:ClassifierConfig", "beit_heads:Classifier"),
    "beit3_captioner": _entry(BEIT3_PAPER, "beit3_config:CaptionerConfig", "beit3_captioner:Captioner"),
    "beit3_classify": _entry(BEIT3_PAPER, "beit3_config:ClassifierConfig", "beit3_heads:Classifier"),
    "beit3_nlvr2": _entry(BEIT3_PAPER, "beit3_config:NLVR2Config", "beit3_heads:PairModel"),
    "beit3_retrieval": _entry(BEIT3_PAPER, "beit3_config:RetrievalConfig", "beit3_heads:Retrieval"),
    "beit3_vqa": _entry(BEIT3_PAPER, "beit3_config:VQAConfig", "beit3_heads:AnswerModel"),
    "dvae": _entry(DVAE_PAPER, "dvae:DVAEConfig", "dvae:DVAE"),
    "blip_captioner": _entry(BLIP_PAPER, "blip_config:CaptionerConfig", "blip_heads:Captioner"),
    "blip_vqa": _entry(BLIP_PAPER, "blip_config:VQAConfig", "blip_heads:AnswerModel"),
    "blip_nlvr": _entry(BLIP_PAPER, "blip_config:NLVRConfig", "blip_heads:PairModel"),
    "blip_base": _entry(BLIP_PAPER, "blip_config:FeaturesConfig", "blip_heads:FeatureExtractor"),
    "coca_classify": _entry(COCA_PAPER, "coca_heads:ClassifierConfig", "coca_heads:Classifier"),
    "mae_classify": _entry(MAE_PAPER, "mae_heads:ClassifierConfig", "mae_heads:Classifier"),
    "simvlm_vqa": _entry(SIMVLM_PAPER, "simvlm_config:VQAConfig", "simvlm_heads:AnswerModel"),
    "vilt_nlvr2": _entry(VILT_PAPER, "vilt_config:ReasoningConfig", "vilt_heads:ReasoningModel"),
    "vilt_retrieval": _entry(VILT_PAPER, "vilt_config:RetrievalConfig", "vilt_heads:Retrieval"),
    "vilt_vqa": _entry(VILT_PAPER, "vilt_config:AnswerConfig", "vilt_heads:AnswerModel"),
    "vlmo_nlvr2": _entry(VLMO_PAPER, "vlmo_config:ReasoningConfig", "vlmo_heads:ReasoningModel"),
    "vlmo_retrieval": _entry(VLMO_PAPER, "vlmo_config:RetrievalConfig", "vlmo_heads:Retrieval"),
    "vlmo_vqa": _entry(VLMO_PAPER, "vlmo_config:AnswerConfig", "vlmo_heads:AnswerModel"),
}


def profile(name: str) -> dict[str, dict[str, float]]:
    """Parameters and FLOPs of a system's vision, text and interaction: see `systems.parts.profile`."""
    from multiway.systems.parts import profile

    return profile(name)
