"""BLIP's parts: what is tied, what moves once a step, how negatives are drawn, what its variants leave."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import ranks
import tiny
import tiny_blip
import tiny_steps
import torch

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems import NETWORKS, SYSTEMS
from multiway.systems.blip import BLIP, Draws
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, NLVRConfig, VQAConfig
from multiway.systems.blip_heads import AnswerModel, Captioner
from multiway.systems.med import Decoder, shift
from multiway.systems.parts import profile
from multiway.systems.towers import BackboneConfig
from multiway.text import Tokenizer
from multiway.train.optim import build_optimizer
from multiway.train.run import TrainConfig


def test_encoder_and_decoder_share_all_but_self_attention() -> None:
    model, _ = tiny_blip.blip()
    encoder, decoder = model.encoders.med, model.decoder
    assert decoder.embed is encoder.embed
    for own, other in zip(decoder.fusion, encoder.fusion, strict=True):
        for name in ("cross", "norm_cross", "ffn", "norm2"):
            assert getattr(own, name) is getattr(other, name)
        for name in ("attention", "norm1"):
            assert getattr(own, name) is not getattr(other, name)
    # What is shared is stored, counted and trained once.
    names = {name for name in model.state_dict() if name.startswith("decoder.")}
    assert {name.split(".")[1] for name in names} == {"head", "fusion"}
    assert {name.split(".")[3] for name in names if ".fusion." in name} == {"attention", "norm1"}
    assert names <= {name for name, _ in model.named_parameters()}


def test_a_copy_of_a_tied_model_is_tied_in_itself() -> None:
    model, _ = tiny_blip.blip()
    other = copy.deepcopy(model)
    assert other.decoder.fusion[0].cross is other.encoders.med.fusion[0].cross
    assert other.decoder.fusion[0].cross is not model.encoders.med.fusion[0].cross
    assert other.decoder.embed is other.encoders.med.embed


def test_lm_alone_trains_the_encoders_shared_parts_and_not_its_self_attention() -> None:
    model, state = tiny_blip.blip()
    batch = tiny.batch()
    model.losses(batch, state, tiny_blip.draws(batch))["lm"].backward()
    layer = "encoders.text.fusion.0."
    reached = set(tiny.gradients(model))
    assert {f"{layer}cross.query.weight", f"{layer}ffn.all.fc1.weight", f"{layer}norm2.all.bias"} <= reached
    assert "encoders.text.embed.words.weight" in reached
    assert {n for n in reached if n.startswith((f"{layer}attention.", f"{layer}norm1."))} == set()


def test_the_text_encoder_skips_cross_attention_and_the_grounded_one_does_not() -> None:
    model, _ = tiny_blip.blip()
    batch = tiny.batch()
    ids, mask = batch.text()
    with torch.no_grad():
        features, read = model.text_context(ids, mask)
        _, context = model.image_context(batch.image)
        scores = model.match_pairs(context, read, mask)
        for block in model.encoders.med.fusion:
            block.cross.out.weight.mul_(3)
        again, _ = model.text_context(ids, mask)
        other = model.match_pairs(context, read, mask)
    assert torch.equal(features, again)
    assert not torch.allclose(scores, other)


def test_the_decoder_sees_no_later_word() -> None:
    model, _ = tiny_blip.blip()
    batch = tiny.batch()
    ids, mask = batch.text()
    context = model.caption_context(batch.image)
    changed = ids.clone()
    changed[:, 2] = (ids[:, 2] + 1) % 50
    with torch.no_grad():
        a, b = model.decoder(ids, mask, context), model.decoder(changed, mask, context)
    torch.testing.assert_close(a[:, :2], b[:, :2])
    assert not torch.allclose(a[:, 2], b[:, 2])


def test_labels_are_the_next_words() -> None:
    ids = torch.tensor([[9, 1, 2, 3, 0], [9, 4, 5, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    assert shift(ids, mask).tolist() == [[1, 2, 3, -100], [4, 5, -100, -100]]
    assert shift(ids, mask, ignored=2).tolist() == [[-100, 2, 3, -100], [-100, 5, -100, -100]]
    ids[0, 2] = 0  # a real token that is [PAD]'s id is a label all the same
    assert shift(ids, mask)[0, 1] == 0


def test_weight_decay_is_on_everything() -> None:
    model, _ = tiny_blip.blip()
    groups = build_optimizer(model, TrainConfig(steps=1, weight_decay=0.05)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05]
    assert len(groups[0]["params"]) == len(list(model.parameters()))


def test_the_average_moves_once_and_leaves_the_decoder_alone() -> None:
    model, state = tiny_blip.blip(tiny_blip.config(momentum=0.9))
    names = set(state.encoders.state_dict())
    assert names == set(model.encoders.state_dict())
    before = {name: tensor.clone() for name, tensor in state.encoders.state_dict().items()}
    batch = tiny.batch()
    losses = model.losses(batch, state, tiny_blip.draws(batch))
    for name, tensor in state.encoders.state_dict().items():
        assert torch.equal(tensor, before[name])
    model.advance(state, [losses])
    for name, tensor in state.encoders.state_dict().items():
        expected = 0.9 * before[name] + 0.1 * model.encoders.state_dict()[name]
        torch.testing.assert_close(tensor, expected, msg=name)


def test_alpha_ramps_over_two_epochs() -> None:
    state = BLIP(tiny_blip.config()).init_state(steps_per_epoch=4)
    found = []
    for _ in range(10):
        found.append(float(state.alpha))
        state.step += 1
    assert found == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.4])


def test_a_fresh_momentum_model_is_a_copy_unless_the_official_order_is_asked_for() -> None:
    for compat in ((), ("momentum_before_tying",)):
        torch.manual_seed(0)
        model = BLIP(tiny_blip.config(compat=compat))
        average = model.init_state().encoders.state_dict()
        other = {n for n, t in model.encoders.state_dict().items() if not torch.equal(t, average[n])}
        tied = {n for n in other if n.startswith("text.") and not {"attention", "norm1"} & set(n.split("."))}
        assert bool(other) == bool(compat)
        assert other == tied


def test_negatives_are_drawn_by_the_softmax_and_a_floor() -> None:
    for floor in (0.0, 0.2):
        model, state = tiny_blip.blip(tiny_blip.config(negative_floor=floor))
        batch = tiny.batch()
        figure = model.figure(batch, state)
        expected = figure.sims.image_to_text[:, : len(batch)].softmax(1) + floor
        torch.testing.assert_close(figure.drawn_by.image_to_text.exp(), expected)
        for _ in range(20):
            pairs = model.pairs(figure.drawn_by, None, None, None)
            assert (pairs.text[5:10] != pairs.image[5:10]).all()


def test_retrieval_draws_by_online_features_and_never_a_positive() -> None:
    changes = {"negatives_by": "batch", "positives": "ids", "negative_floor": 0.0, "lm_weight": 0.0}
    model, state = tiny_blip.blip(tiny_blip.config(**changes))
    ids = torch.tensor([1, 2, 1, 3, 3, 1])
    batch = replace(tiny.batch(6), ids=ids)
    figure = model.figure(batch, state)
    online = figure.own.image_features @ figure.own.text_features.T / model.temperature
    torch.testing.assert_close(figure.drawn_by.image_to_text, online.log_softmax(1))
    for _ in range(20):
        found = model.pairs(figure.drawn_by, None, None, None)
        assert (ids[found.text[6:12]] != ids[found.image[6:12]]).all()
    with pytest.raises(UserError, match="no decoder"):
        model.decoding(batch.image)


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": None},
        {"lm_weight": 0.0},
        {"itm_weight": 0.0},
        {"alpha": 0.0},
        {"null_token": True},
        {"hard_negatives": 3},
        {"text_pooling": "mean", "match_pooling": "mean"},
    ],
    ids=str,
)
def test_every_variant_has_finite_losses_and_reaches_every_parameter(changes: dict) -> None:
    model, state = tiny_blip.blip(tiny_blip.config(**changes))
    out = model.losses(tiny.batch(), state)
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
    idle = {n for n, p in model.named_parameters() if p.grad is None}
    # The ITM head is there without its loss, as ALBEF's: a checkpoint has it.
    assert idle == ({"itm_head.weight", "itm_head.bias"} if "itm_weight" in changes else set())
    model.advance(state, [out])


def test_a_batch_of_one_picture_has_no_negatives_and_a_finite_loss() -> None:
    model, state = tiny_blip.blip(tiny_blip.config(positives="ids"))
    batch = replace(tiny.batch(3), ids=torch.zeros(3, dtype=torch.long))
    figure = model.figure(batch, state)
    assert figure.itm_labels.tolist() == [1] * 3 + [-100] * 6
    assert torch.isfinite(figure.losses["loss"])


def test_it_is_listed_with_its_shares() -> None:
    assert "blip" in SYSTEMS
    assert {"blip_captioner", "blip_vqa", "blip_nlvr", "blip_base"} <= set(NETWORKS) - set(SYSTEMS)
    shares = profile("blip")
    model = NETWORKS["blip"]
    with torch.device("meta"):
        total = sum(p.numel() for p in model.network()(model.config()()).parameters()) / 1e6
    found = sum(part["parameters"] for part in shares.values())
    assert found == pytest.approx(total, abs=0.01)  # all but the temperature
    assert 240 < total < 260  # the paper's table 3: 252 M
    assert all(part["gflops"] > 0 for part in shares.values())


def test_an_untied_decoder_shares_nothing() -> None:
    own = Decoder(tiny_blip.med(), context_width=24)
    names = {name.split(".")[0] for name in own.state_dict()}
    assert names == {"embed", "fusion", "head"}
    assert any(".cross." in name for name in own.state_dict())


def test_a_captioner_sees_what_the_model_that_it_starts_from_saw() -> None:
    """Also over a tower without a class token, whose tokens are normalised, and beside a null token."""
    tower = BackboneConfig(name="efficientnet_lite0", image_size=64)
    given, _ = tiny_blip.blip(tiny_blip.config(image=tower, null_token=True))
    config = CaptionerConfig(image=tower, text=tiny_blip.med(), null_token=True)
    captioner = Captioner(config)
    missing = captioner.load_state_dict(captioner.adopt(given.eval().state_dict()), strict=False).missing_keys
    assert missing == []
    image = torch.randn(2, 3, 64, 64)
    ids, mask = torch.tensor([[60, 5, 6], [60, 7, 8]]), torch.ones(2, 3, dtype=torch.long)
    found = []
    for model in (given, captioner.eval()):
        with torch.no_grad():
            decoder = model.writer()
            found.append(decoder.logits(decoder(ids, mask, model.caption_context(image))))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.filterwarnings("ignore:a text was cut")
def test_prompt_and_caption_are_cut_together(monkeypatch) -> None:
    tokens = replace(tiny_blip.config().tokenizer, max_length=9)
    text = tiny_blip.med(vocab_size=30524)
    captioner = Captioner(CaptionerConfig(image=tiny.vit(), text=text, tokenizer=tokens))
    captioner.tokenizer = Tokenizer.load(tokens)
    seen = []

    def figure(embeds, ids, mask, prompt):
        seen.append((ids, mask))
        return None, None, torch.zeros(())

    monkeypatch.setattr(captioner, "figure", figure)
    ids, mask = captioner.tokenize(["a red dog on a big blue boat", "a dog"])
    captioner.losses(Batch(image=torch.randn(2, 3, 32, 32), input_ids=ids, attention_mask=mask))
    (ids, mask) = seen[0]
    expected = [captioner.tokenizer.encode(f"a picture of {text}") for text in ("a red dog on", "a dog")]
    assert ids[0, 1:].tolist() == expected[0][1:]  # [DEC] comes before both
    assert mask[0].all()
    assert ids[1][mask[1].bool()][1:].tolist() == expected[1][1:]


def test_fine_tunings_read_texts_as_officially() -> None:
    model = BLIP(BLIPConfig(image=tiny.vit(), text=tiny_blip.med(vocab_size=30524, positions=512)))
    vqa, nlvr = model.fine_tuning("vqa", ("12:30",)), model.fine_tuning("nlvr2")
    assert vqa.tokenizer == VQAConfig().tokenizer
    assert nlvr.tokenizer == NLVRConfig().tokenizer
    assert vqa.image.drop_path == nlvr.image.drop_path == 0.1
    assert model.fine_tuning("retrieval").tokenizer.max_length == 35
    answers = AnswerModel(vqa)
    answers.tokenizer = Tokenizer.load(vqa.tokenizer)
    questions, _ = answers.tokenize(["is it 12:30 (or so)?"])
    plain, _ = answers.tokenize(["is it 1230 or so?"], clean=False)
    assert torch.equal(questions, plain)
    ids, mask = answers.answer_ids(["12:30"])
    assert answers.tokenizer.decode([ids[0][mask[0].bool()].tolist()])[0].split() == ["12", ":", "30"]


def test_the_official_order_touches_only_what_was_not_loaded() -> None:
    model = BLIP(tiny_blip.config(compat=("momentum_before_tying",)))

    def same() -> set[str]:
        state, own = model.init_state().encoders.text.fusion[0], model.encoders.med.fusion[0]
        return {
            n for n, p in own.named_parameters() if torch.equal(p, state.get_parameter(n)) and p.ndim == 2
        }

    assert all(name.startswith("attention") for name in same())
    model.start_from_text()
    assert {name.split(".")[0] for name in same()} == {"attention", "ffn"}
    model.adopt(model.state_dict())
    assert {name.split(".")[0] for name in same()} == {"attention", "ffn", "cross"}


@pytest.mark.parametrize(
    ("changes", "says"), [({"layers": 1}, "text.layers is 1"), ({"fusion_layers": 0}, "fusion_layers is 0")]
)
def test_layers_that_no_forward_goes_through(changes: dict, says: str) -> None:
    for kind in (BLIPConfig, CaptionerConfig):
        with pytest.raises(UserError, match=says):
            kind(image=tiny.vit(), text=tiny_blip.med(**changes))


# --- ranks

SIZE, WORLD = 3, 2
WHOLE = tiny.batch(SIZE * WORLD)
DRAWS = tiny_blip.draws(WHOLE)
DRAWS.negative_text[0] = DRAWS.negative_image[1] = -1  # rank 0 has fewer labelled pairs than rank 1


def two_steps(rows: tuple[Batch, Draws], world: int, changes: dict) -> dict:
    return tiny_steps.two_steps(*tiny_blip.blip(tiny_blip.config(**changes)), *rows, world)


def on_rank(rank: int, changes: dict) -> dict:
    return two_steps(tiny_steps.of_rank(WHOLE, DRAWS, rank, SIZE), WORLD, changes)


def test_two_ranks_with_global_negatives_equal_one_process() -> None:
    changes = {"negatives": "global", "normalisation": "global"}
    one = two_steps((WHOLE, DRAWS), 1, changes)
    for both in ranks.run(on_rank, WORLD, changes):
        tiny_steps.assert_ranks_equal_one(both, one)


@pytest.mark.slow
def test_negatives_of_all_ranks_leave_itc_to_the_rank() -> None:
    """ITM and LM are those of the whole batch; ITC's candidates are this rank's, so it differs."""
    changes = {"normalisation": "global", "negative_all_rank": True, "queue_size": 0}
    one = two_steps((WHOLE, DRAWS), 1, changes)["steps"][0]["losses"]
    for both in ranks.run(on_rank, WORLD, changes):
        found = both["steps"][0]["losses"]
        for name in ("itm", "lm"):
            torch.testing.assert_close(found[name], one[name])
        assert not torch.allclose(found["itc"], one["itc"])
