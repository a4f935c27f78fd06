"""Every case that can be replayed, and which parts of its config.json are results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import albef
import albef_conversion
import albef_grounding
import albef_heads
import albef_nlvr
import albef_setup
import beit
import beit2
import beit3
import beit3_captions
import beit3_setup
import blip
import blip_setup
import blip_text
import clip
import coca
import coca_palm
import coca_runs
import flip
import mae
import momentum
import momentum_runs as runs
import simvlm
import vilt
import vlmo
import vlmo_runs
import vlmo_setup
from case import Case, Rule, default_rule

#: What replays a case, and how closely it must agree. Names of outputs are the recorded ones; `config.<path>`
#: and `inputs.<name>` are facts recorded there.
CASES: dict[str, tuple[Callable[[Case], dict[str, Any]], Callable[[Case, str], Rule]]] = {
    "albef/pretrain": (partial(momentum.pretrain, albef.RECORDING), default_rule),
    "albef/pretrain_2proc": (partial(runs.pretrain_2proc, albef.RECORDING), runs.pretrain_2proc_rule),
    "albef/trajectory": (partial(runs.trajectory, albef.RECORDING), runs.trajectory_rule),
    "albef/init": (albef_setup.init, albef_setup.init_rule),
    "albef/retrieval_train": (albef.retrieval_train, default_rule),
    "albef/retrieval_eval": (albef.retrieval_eval, default_rule),
    "albef/schedule": (albef_setup.schedule, albef_setup.schedule_rule),
    "albef/tokenize_real_vocab": (albef_setup.tokenize, default_rule),
    "albef/checkpoint_conversion": (albef_conversion.checkpoint_conversion, default_rule),
    "albef/nlvr": (albef_nlvr.nlvr, default_rule),
    "albef/nlvr_pretrain": (albef_nlvr.nlvr_pretrain, default_rule),
    "albef/vqa": (albef_heads.vqa, albef_heads.vqa_rule),
    "albef/gradcam": (albef_grounding.grounding, albef_grounding.grounding_rule),
    "albef/ve": (albef_heads.entailment, default_rule),
    "beit/mim": (beit.mim, beit.rule),
    "beit/hf_masked_image_modeling": (beit.hf, beit.rule),
    "beit/finetune_classifier": (beit.classifier, beit.rule),
    "beit/masking_generator": (partial(beit.masks, exact=False), beit.rule),
    "beit/layer_decay_groups": (beit.groups, beit.rule),
    "beit/dalle_encoder": (beit.dalle, beit.rule),
    "beit2/mim": (beit.mim, beit.rule),
    "beit2/mim_cls_pt": (beit.mim, beit.rule),
    "beit2/mim_cls_pt_unshared_head": (beit.mim, beit.rule),
    "beit2/masking_generator": (partial(beit.masks, exact=True), beit.rule),
    "beit2/quantizer": (beit2.quantizer, beit.rule),
    "beit2/vqkd": (beit2.vqkd, beit.rule),
    "beit3/backbone": (beit3.backbone, beit3_setup.rule),
    "beit3/retrieval": (beit3.retrieval, beit3_setup.rule),
    "beit3/retrieval_2proc": (beit3.retrieval_2proc, beit3_setup.rule),
    "beit3/vqa": (beit3.vqa, beit3_setup.rule),
    "beit3/nlvr2": (beit3.nlvr2, beit3_setup.rule),
    "beit3/image_classification": (beit3.image_classification, beit3_setup.rule),
    "beit3/captioning": (beit3_captions.captioning, beit3_setup.rule),
    "beit3/mdm_pretrain_math": (beit3.mdm_pretrain_math, beit3_setup.rule),
    "beit3/load_interpolate": (beit3_setup.load_interpolate, beit3_setup.rule),
    "beit3/tokenizer": (beit3_setup.tokenizer, beit3_setup.rule),
    "beit3/layer_decay_groups": (beit3_setup.layer_decay_groups, beit3_setup.groups_rule),
    "beit3/init": (beit3_setup.init, beit3_setup.init_rule),
    "blip/pretrain": (blip.pretrain, default_rule),
    "blip/pretrain_2proc": (partial(runs.pretrain_2proc, blip.RECORDING), runs.pretrain_2proc_rule),
    "blip/trajectory": (partial(runs.trajectory, blip.RECORDING), runs.trajectory_rule),
    "blip/retrieval_train": (blip.retrieval_train, default_rule),
    "blip/retrieval_eval": (blip.retrieval_eval, default_rule),
    "blip/init": (blip_setup.init, blip_setup.init_rule),
    "blip/schedule": (blip_setup.schedule, blip_setup.schedule_rule),
    "blip/tokenize_real_vocab": (blip_setup.tokenize, default_rule),
    "blip/checkpoint_conversion": (blip_setup.checkpoint_conversion, default_rule),
    "blip/caption": (blip_text.caption, default_rule),
    "blip/capfilt": (blip_text.capfilt, default_rule),
    "blip/vqa": (blip_text.vqa, blip_text.vqa_rule),
    "blip/nlvr": (blip_text.nlvr, default_rule),
    "blip/features": (blip_text.features, default_rule),
    "flip/official_jax": (flip.official_jax, flip.jax_rule),
    "flip/open_clip_patch_dropout": (flip.open_clip, clip.rule),
    "mae/official": (mae.mae, beit.rule),
    "mae/hf_vit_mae": (mae.hf, beit.rule),
    "mae/init": (mae.init, vlmo_setup.init_rule),
    "mae/layer_decay_groups": (mae.groups, beit.rule),
    "mae/trajectory": (mae.trajectory, mae.trajectory_rule),
    "clip/open_clip": (clip.open_clip, clip.rule),
    "clip/open_clip_quickgelu": (clip.open_clip, clip.rule),
    "clip/hf_clip": (clip.hf_clip, clip.rule),
    "clip/clip_loss_2proc": (clip.loss_2proc, clip.rule),
    "coca/open_clip_coca": (coca.open_clip, coca.rule),
    "coca/open_clip_coca_paper_pooler_cascade": (coca.open_clip, coca.rule),
    "coca/open_clip_coca_paper_pooler_parallel": (coca.open_clip, coca.rule),
    "coca/lucidrains": (coca_palm.lucidrains, coca.rule),
    "coca/trajectory": (coca_runs.trajectory, coca_runs.trajectory_rule),
    "coca/init": (coca_runs.init, coca_runs.init_rule),
    "simvlm/prefix_lm_mask": (simvlm.prefix_lm_mask, simvlm.rule),
    "vilt/pretrain": (vilt.pretrain, vilt.rule),
    "vilt/irtr": (vilt.irtr, vilt.rule),
    "vilt/vqa": (vilt.vqa, vilt.rule),
    "vilt/nlvr2": (vilt.nlvr2, vilt.rule),
    "vilt/schedule": (vilt.schedule, vilt.rule),
    "vlmo/pretrain_step": (vlmo.pretrain_step, vlmo.rule),
    "vlmo/pretrain_step_2proc": (vlmo.pretrain_step_2proc, vlmo.rule),
    "vlmo/pretrain_step_abs_pos": (vlmo.pretrain_step, vlmo.rule),
    "vlmo/stages_textmlm": (vlmo_setup.stages_textmlm, vlmo.rule),
    "vlmo/load_larger_image": (vlmo_setup.load_larger_image, vlmo.rule),
    "vlmo/retrieval_finetune": (vlmo_setup.retrieval_finetune, vlmo.rule),
    "vlmo/vqa": (vlmo_setup.vqa, vlmo.rule),
    "vlmo/nlvr2": (vlmo_setup.nlvr2, vlmo.rule),
    "vlmo/init": (vlmo_setup.init, vlmo_setup.init_rule),
    "vlmo/layer_decay_groups": (vlmo_setup.layer_decay_groups, vlmo_setup.groups_rule),
    "vlmo/trajectory": (vlmo_runs.trajectory, vlmo_runs.trajectory_rule),
    "vlmo/trajectory_textmlm": (vlmo_runs.trajectory_textmlm, vlmo_runs.trajectory_rule),
}

#: Keys of config.json, at any depth, whose values are results of the official code and not settings.
RECORDED_FACTS = {
    "blip_itm_unexpected_keys",
    "decisions",
    "decode_caption",
    "decode_text",
    "generate_text",
    "grad_params_without_grad",
    "key_map",
    "len_tokenizer",
    "metrics",
    "missing_keys",
    "momentum_differs_from_online",
    "param_groups",
    "parameter_groups",
    "params_without_grad",
    "params_without_grad_though_trainable",
    "pre_caption",
    "pre_question",
    "prompt_length",
    "recalls",
    "stage2_frozen",
    "stage2_trainable",
    "synthetic_texts",
    "tied",
    "tied_modules_printed",
    "trainable_but_unchanged",
    "unexpected_keys",
    "unexpected_keys_count",
    "vocab_sha256",
}

#: Others, by their whole path: elsewhere the same key is a setting.
RECORDED_PATHS = (
    "config.bos_token_id",
    "config.enc_token_id",
    "config.generate.*.text",
    "config.grounding.pred_boxes",
    "config.grounding.result",
)

#: Keys of outputs.json, at any depth, that are compared: `outputs.<path>`. A `groups` table is, of ours, each
#: official name's (share of the learning rate, weight decay).
OUTPUT_FACTS = {
    "frozen",
    "frozen_sha256",
    "frozen_though_in_a_group",
    "groups",
    "not_in_optimizer",
    "num_parameters",
    "trainable_but_unchanged",
    "trained",
}
