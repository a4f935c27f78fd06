"""The systems, by name. Each entry's functions import inside their bodies, so that listing is instant."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One system: its paper, and functions that give its config class and its network class."""

    paper: str
    config: Callable[[], type]
    network: Callable[[], type]


def _albef_config() -> type:
    from multiway.systems.albef import ALBEFConfig

    return ALBEFConfig


def _albef() -> type:
    from multiway.systems.albef import ALBEF

    return ALBEF


def _albef_nlvr_config() -> type:
    from multiway.systems.albef_nlvr import NLVRConfig

    return NLVRConfig


def _albef_nlvr() -> type:
    from multiway.systems.albef_nlvr import PairModel

    return PairModel


def _assignment_config() -> type:
    from multiway.systems.albef_assignment import AssignmentConfig

    return AssignmentConfig


def _assignment() -> type:
    from multiway.systems.albef_assignment import TextAssignment

    return TextAssignment


def _clip_config() -> type:
    from multiway.systems.clip import CLIPConfig

    return CLIPConfig


def _clip() -> type:
    from multiway.systems.clip import CLIP

    return CLIP


def _blip_config() -> type:
    from multiway.systems.blip_config import BLIPConfig

    return BLIPConfig


def _blip() -> type:
    from multiway.systems.blip import BLIP

    return BLIP


def _blip_head(config: str, network: str) -> Entry:
    """A fine-tuning network of BLIP, by the names of its classes."""

    def config_class() -> type:
        from multiway.systems import blip_config

        return getattr(blip_config, config)

    def network_class() -> type:
        from multiway.systems import blip_heads

        return getattr(blip_heads, network)

    return Entry(BLIP_PAPER, config_class, network_class)


def _beit_config() -> type:
    from multiway.systems.beit_config import BEiTConfig

    return BEiTConfig


def _beit() -> type:
    from multiway.systems.beit import BEiT

    return BEiT


def _beit_classifier_config() -> type:
    from multiway.systems.beit_config import ClassifierConfig

    return ClassifierConfig


def _beit_classifier() -> type:
    from multiway.systems.beit_heads import Classifier

    return Classifier


def _mae(config: str, network: str, module: str) -> Entry:
    """MAE or its classifier, by the names of its classes."""

    def class_of(name: str) -> type:
        return getattr(importlib.import_module(f"multiway.systems.{module}"), name)

    return Entry(MAE_PAPER, lambda: class_of(config), lambda: class_of(network))


def _vqkd_config() -> type:
    from multiway.systems.vqkd import VQKDConfig

    return VQKDConfig


def _vqkd() -> type:
    from multiway.systems.vqkd import VQKD

    return VQKD


def _dvae_config() -> type:
    from multiway.systems.dvae import DVAEConfig

    return DVAEConfig


def _dvae() -> type:
    from multiway.systems.dvae import DVAE

    return DVAE


def _beit3(config: str, network: str, module: str = "beit3_heads") -> Entry:
    """BEiT-3 or one of its fine-tuning networks, by the names of its classes."""

    def config_class() -> type:
        from multiway.systems import beit3_config

        return getattr(beit3_config, config)

    def network_class() -> type:
        return getattr(importlib.import_module(f"multiway.systems.{module}"), network)

    return Entry(BEIT3_PAPER, config_class, network_class)


def _vlmo(config: str, network: str, module: str = "vlmo_heads") -> Entry:
    """VLMo or one of its fine-tuning networks, by the names of its classes."""

    def config_class() -> type:
        from multiway.systems import vlmo_config

        return getattr(vlmo_config, config)

    def network_class() -> type:
        return getattr(importlib.import_module(f"multiway.systems.{module}"), network)

    return Entry(VLMO_PAPER, config_class, network_class)


def _coca_config() -> type:
    from multiway.systems.coca_config import CoCaConfig

    return CoCaConfig


def _coca() -> type:
    from multiway.systems.coca import CoCa

    return CoCa


def _simvlm(config: str, network: str, module: str = "simvlm_heads") -> Entry:
    """SimVLM or its classifier, by the names of its classes."""

    def config_class() -> type:
        return getattr(importlib.import_module(f"multiway.systems.{module}"), config)

    def network_class() -> type:
        return getattr(importlib.import_module(f"multiway.systems.{module}"), network)

    return Entry(SIMVLM_PAPER, config_class, network_class)


ALBEF_PAPER = "Li et al. 2021, arXiv:2107.07651"
BEIT3_PAPER = "Wang et al. 2022, arXiv:2208.10442"
BEIT_PAPER = "Bao et al. 2021, arXiv:2106.08254"
BLIP_PAPER = "Li et al. 2022, arXiv:2201.12086"
MAE_PAPER = "He et al. 2021, arXiv:2111.06377"
SIMVLM_PAPER = "Wang et al. 2021, arXiv:2108.10904"
VLMO_PAPER = "Bao et al. 2021, arXiv:2111.02358"

SYSTEMS: dict[str, Entry] = {
    "albef": Entry(ALBEF_PAPER, _albef_config, _albef),
    "beit": Entry(BEIT_PAPER, _beit_config, _beit),
    "beit3": _beit3("BEiT3Config", "BEiT3", "beit3"),
    "blip": Entry(BLIP_PAPER, _blip_config, _blip),
    "clip": Entry("Radford et al. 2021, arXiv:2103.00020", _clip_config, _clip),
    "coca": Entry("Yu et al. 2022, arXiv:2205.01917", _coca_config, _coca),
    "mae": _mae("MAEConfig", "MAE", "mae"),
    "simvlm": _simvlm("SimVLMConfig", "SimVLM", "simvlm"),
    "vlmo": _vlmo("VLMoConfig", "VLMo", "vlmo"),
    "vqkd": Entry("Peng et al. 2022, arXiv:2208.06366", _vqkd_config, _vqkd),
}

#: The systems, and the fine-tuning networks that are saved and loaded by their own names.
NETWORKS: dict[str, Entry] = SYSTEMS | {
    "albef_assignment": Entry(ALBEF_PAPER, _assignment_config, _assignment),
    "albef_nlvr2": Entry(ALBEF_PAPER, _albef_nlvr_config, _albef_nlvr),
    "beit_classify": Entry(BEIT_PAPER, _beit_classifier_config, _beit_classifier),
    "beit3_captioner": _beit3("CaptionerConfig", "Captioner", "beit3_captioner"),
    "beit3_classify": _beit3("ClassifierConfig", "Classifier"),
    "beit3_nlvr2": _beit3("NLVR2Config", "PairModel"),
    "beit3_retrieval": _beit3("RetrievalConfig", "Retrieval"),
    "beit3_vqa": _beit3("VQAConfig", "AnswerModel"),
    "dvae": Entry("Ramesh et al. 2021, arXiv:2102.12092", _dvae_config, _dvae),
    "blip_captioner": _blip_head("CaptionerConfig", "Captioner"),
    "blip_vqa": _blip_head("VQAConfig", "AnswerModel"),
    "blip_nlvr": _blip_head("NLVRConfig", "PairModel"),
    "blip_base": _blip_head("FeaturesConfig", "FeatureExtractor"),
    "mae_classify": _mae("ClassifierConfig", "Classifier", "mae_heads"),
    "simvlm_vqa": _simvlm("VQAConfig", "AnswerModel"),
    "vlmo_nlvr2": _vlmo("ReasoningConfig", "ReasoningModel"),
    "vlmo_retrieval": _vlmo("RetrievalConfig", "Retrieval"),
    "vlmo_vqa": _vlmo("AnswerConfig", "AnswerModel"),
}


def profile(name: str) -> dict[str, dict[str, float]]:
    """Parameters and FLOPs of a system's vision, text and interaction: see `systems.profile.profile`."""
    from multiway.systems.profile import profile

    return profile(name)
