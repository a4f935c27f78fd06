"""CoCa: one forward for both losses, unpadded texts, poolers, quirks, experts, cached generation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tiny
import tiny_coca
import torch
from torch import Tensor

from multiway.batch import Batch
from multiway.core.embed import sincos_positions
from multiway.core.packed import packed
from multiway.errors import UserError
from multiway.generation import GenerationConfig, generate
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import OFFICIAL, PoolerConfig
from multiway.systems.coca_heads import Classifier

QUIRKS = ((), OFFICIAL[:1], OFFICIAL)


def two_forwards(model: CoCa, batch: Batch) -> dict[str, Tensor]:
    """The contrast from one pass over padded texts and [CLS], captions from another one without [CLS]."""
    ids, mask = batch.text()
    length, rows = ids.shape[1], torch.arange(len(ids))
    pooled = model.pool(model.image_tower(batch.image))
    # [CLS] right behind each text, its position the table's last.
    x = torch.cat([model.words(ids), torch.zeros_like(model.words(ids[:, :1]))], dim=1)
    x[rows, mask.sum(1)] = model.words.cls_token + model.words.cls_position[0]
    seen = model.text(x, causal=True, route=model.route)[rows, mask.sum(1)]
    features = torch.nn.functional.normalize(model.text_proj(model.text_norm(seen)), dim=-1)
    logits = model.logit_scale.exp() * model.image_features(pooled) @ features.T
    target = torch.arange(len(ids))
    itc = sum(torch.nn.functional.cross_entropy(part, target) for part in (logits, logits.T)) / 2
    hidden = model.text(model.words(ids), causal=True, route=model.route)
    hidden = model.multimodal(hidden, causal=True, context=model.context(pooled))
    labels = ids.masked_fill(mask == 0, -100)[:, 1:]
    lm = torch.nn.functional.cross_entropy(
        model.logits(hidden)[:, : length - 1].flatten(0, 1), labels.flatten()
    )
    return {"itc": itc, "lm": lm, "loss": itc + 2 * lm}


@pytest.mark.parametrize("form", ["single", "cascade", "parallel"])
@pytest.mark.parametrize("experts", [False, True])
def test_one_forward_equals_two_in_value_and_gradient(form: str, experts: bool) -> None:
    make = tiny_coca.experts if experts else tiny_coca.config
    found = []
    for losses in (lambda m, b: m.losses(b, m.init_state()), two_forwards):
        model, batch = (
            tiny_coca.coca(make(pooler=PoolerConfig(form=form, queries=5, heads=2))),
            tiny_coca.batch(),
        )
        out = losses(model, batch)
        out["loss"].backward()
        found.append(({n: t.detach() for n, t in out.items()}, tiny.gradients(model)))
    tiny.assert_same(found[0][0], found[1][0])
    tiny.assert_same(found[0][1], found[1][1], tolerance=2e-5)
    assert set(found[0][1]) == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("compat", QUIRKS)
def test_texts_are_alone_what_they_are_in_a_batch(compat: tuple) -> None:
    model, batch = tiny_coca.coca(tiny_coca.config(compat=compat)).eval(), tiny_coca.batch()
    ids, mask = batch.text()
    features, _ = model.text_context(ids, mask)
    for b, length in enumerate(mask.sum(1)):
        alone, _ = model.text_context(ids[b : b + 1, :length], mask[b : b + 1, :length])
        torch.testing.assert_close(alone[0], features[b])


def test_the_late_mask_changes_the_feature_of_padded_texts_alone() -> None:
    right, late = (tiny_coca.coca(tiny_coca.config(compat=c)).eval() for c in ((), OFFICIAL[:1]))
    ids, mask = tiny.batch(length=right.config.text.positions).text()
    whole = mask.sum(1) == right.config.text.positions
    assert whole.any()
    assert not whole.all()
    same = (right.text_context(ids, mask)[0] - late.text_context(ids, mask)[0]).abs().amax(1) < 1e-6
    assert torch.equal(same, whole)


def test_zero_is_a_word_unless_the_quirk_says_padding() -> None:
    batch = tiny_coca.batch()
    ids = batch.input_ids.clone()
    ids[:, 1] = 0
    batch = replace(batch, input_ids=ids)
    model = tiny_coca.coca()
    right = model.losses(batch, model.init_state())["lm"]
    model.config = replace(model.config, compat=OFFICIAL)
    figure = model.figure(batch)
    assert (figure.labels[:, 0] == -100).all()
    assert abs(float((figure.losses["lm"] - right).detach())) > 1e-4


def test_a_pooler_of_one_form_is_what_the_paper_says() -> None:
    image = tiny_coca.batch().image
    for form in ("single", "cascade", "parallel", "none"):
        base = tiny_coca.experts(experts=False) if form == "none" else tiny_coca.config()
        model = tiny_coca.coca(replace(base, pooler=PoolerConfig(form=form, queries=5, heads=2)))
        tokens = model.image_tower(image)
        vector, rest = model.pool(tokens)
        assert rest.shape == (5, {"single": 4, "none": 16}.get(form, 5), 16)
        own = model.pooler
        if form == "cascade":
            torch.testing.assert_close(vector, own.contrast(rest))
        if form == "parallel":
            torch.testing.assert_close(vector, own.contrast(own.norm(tokens)))


def test_sines_and_cosines_stay_and_keys_may_go_without_a_bias() -> None:
    image = replace(tiny_coca.config().image, sincos=True, key_bias=False)
    tower = CoCa(tiny_coca.config(image=image)).image_tower
    assert torch.equal(tower.positions, sincos_positions((4, 4), 24))
    assert not tower.blocks[0].attention.qkv.bias.any()


def test_widths_must_fit() -> None:
    with pytest.raises(UserError, match="24 wide and the text 16"):
        CoCa(tiny_coca.config(experts=True))


def test_a_classifiers_heads_divide_the_towers_width() -> None:
    model = tiny_coca.coca(tiny_coca.config(pooler=PoolerConfig(queries=5, heads=16)))  # text 16, tower 24
    config = model.fine_tuning("classify", ("cat", "dog"))
    assert config.heads == 12
    assert Classifier(config).predict(tiny_coca.batch()).shape == (5, 2)


@pytest.mark.parametrize("kind", ["paper", "open_clip", "zeros", "experts", "packed"])
def test_cached_generation_equals_reading_everything_again(kind: str) -> None:
    given = {
        "paper": tiny_coca.config(),
        "open_clip": tiny_coca.config(multimodal=tiny_coca.OPEN_CLIP, compat=OFFICIAL),
        "zeros": tiny_coca.config(compat=("zero_is_padding",)),
        "experts": tiny_coca.experts(),
        "packed": tiny_coca.config(multimodal=tiny_coca.OPEN_CLIP),
    }[kind]
    plain = tiny_coca.coca(given).eval()
    image = tiny_coca.batch(3).image
    start = torch.tensor([[tiny.CLS]] * 3)
    with torch.no_grad():
        config = GenerationConfig(method="beam", beams=2, max_length=6, eos_id=5)
        first = generate(plain.decoding(image), start, None, config).sequences[0][0]
        plain.word_head.weight[0] = 1.1 * plain.word_head.weight[first[1]]  # 0 comes there
        model = packed(plain) if kind == "packed" else plain
        found = generate(model.decoding(image), start, None, config)
        assert any(0 in group[0][:-1] for group in found.sequences)
        context = plain.caption_context(image)
        for g, group in enumerate(found.sequences):
            text = torch.tensor([[tiny.CLS, *group[0]]])
            hidden = plain.read(text, torch.ones_like(text))[:, :-1]
            one = context.select(torch.tensor([g]))
            hidden = plain.multimodal(hidden, causal=True, context=one)
            logprobs = plain.logits(hidden)[0, :-1].log_softmax(-1)
            again = logprobs[torch.arange(len(group[0])), torch.tensor(group[0])]
            assert again.tolist() == pytest.approx(found.token_logprobs[g][0], abs=1e-5)
            free = generate_without_cache(plain, one, config)
            assert free == pytest.approx(found.scores[g][0], abs=1e-5)


def generate_without_cache(model: CoCa, context, config: GenerationConfig) -> float:
    """The best sequence's score, by the same search over texts that are read whole each time."""

    class Whole:
        groups, vocab_size = 1, tiny.VOCAB

        def room(self, prompt_length):
            return tiny_coca.config().text.positions - prompt_length + 1

        def start(self, input_ids, attention_mask=None):
            self.rows = input_ids
            return self.last()[:1]

        def step(self, tokens, rows):
            self.rows = torch.cat([self.rows[rows.flatten()], tokens.reshape(-1, 1)], dim=1)
            return self.last().view(1, tokens.shape[1], -1)

        def last(self):
            hidden = model.read(self.rows, torch.ones_like(self.rows))[:, :-1]
            shared = context.select(torch.zeros(len(self.rows), dtype=torch.long))
            return model.logits(model.multimodal(hidden, causal=True, context=shared)[:, -1])

    return generate(Whole(), torch.tensor([[tiny.CLS]]), None, config).scores[0][0]


def test_the_scale_is_clamped_and_matrices_alone_decay() -> None:
    model = tiny_coca.coca()
    with torch.no_grad():
        model.logit_scale.fill_(5.0)
    model.advance(model.init_state(), [])
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(100))
    decayed = {n for n, p in model.named_parameters() if model.decays(n, p)}
    assert {"words.positions", "pooler.captions.query", "word_head.weight"} <= decayed
    assert not {"logit_scale", "words.cls_token", "image_tower.cls_token"} & decayed
    assert not any(n.endswith("bias") or "norm" in n for n in decayed)
