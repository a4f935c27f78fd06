"""What a run keeps in its folder for itself: the vocabulary that it trained, and its log's lock."""

import fcntl
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from PIL import Image

import multiway
from multiway.data.dataset import DataConfig, Source
from multiway.errors import UserError
from multiway.systems.albef import ALBEFConfig
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig
from multiway.tasks import finetune
from multiway.tasks.pretrain import pretrain
from multiway.text import TokenizerConfig
from multiway.train.build import build_system
from multiway.train.log import Log, claimed
from multiway.train.run import Init, LoRAConfig, Run, TrainConfig


@pytest.fixture
def run(tmp_path):
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    say(tmp_path, "a red thing")
    image = ViTConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2, hidden=32)
    text = BertConfig(width=16, layers=1, fusion_layers=1, heads=2, hidden=32, vocab_size=60)
    off = {"momentum": None, "queue_size": 0, "alpha": 0.0, "mlm_weight": 0.0}
    words = TokenizerConfig(vocab="trained")
    return Run(
        name="words",
        system=ALBEFConfig(image=image, text=text, embed_dim=8, tokenizer=words, **off),
        data=DataConfig(train=(Source(path=str(tmp_path / "captions.csv")),), image_size=32),
        train=TrainConfig(steps=1, batch_size=4, device="cpu"),
    )


def say(folder, caption):
    rows = "".join(f"{number}.png,{caption} {'abcd'[number]}\n" for number in range(4))
    (folder / "captions.csv").write_text("image,caption\n" + rows)


def vocabulary(folder):
    return (folder / "vocab.txt").read_text().split()


def test_a_resumed_run_has_the_vocabulary_that_it_began_with(run, tmp_path):
    out = tmp_path / "out"
    pretrain(run, out)
    before = vocabulary(out / "model")
    assert vocabulary(out) == before
    say(tmp_path, "blue things now")
    longer = replace(run, train=replace(run.train, steps=2))
    pretrain(longer, out)
    assert vocabulary(out / "model") == before
    pretrain(longer, tmp_path / "other")
    assert vocabulary(tmp_path / "other") != before
    given = replace(run, init=Init(tokenizer=str(out / "model")))
    pretrain(given, tmp_path / "given")
    assert vocabulary(tmp_path / "given" / "model") == before
    assert multiway.load(tmp_path / "given" / "model").tokenizer.config.vocab == "trained"


def test_a_vocabulary_is_given_only_where_it_is_a_trained_one(run, tmp_path):
    system = replace(run.system, tokenizer=TokenizerConfig(), text=BertConfig(width=16, heads=2, hidden=32))
    run = replace(run, system=system, init=Init(tokenizer=str(tmp_path)))
    with pytest.raises(UserError, match="vocab is 'bert-base-uncased': set that to trained"):
        build_system(run)


def test_two_processes_do_not_train_into_one_folder(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print(); input()"
    command = [sys.executable, "-c", hold, str(out / "metrics.jsonl")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline()
        written = out / "checkpoints" / ".step-00000006.new"  # by that process, which it must not lose
        written.mkdir(parents=True)
        with pytest.raises(UserError, match="another process is training into .*out: wait for its end"):
            pretrain(run, out)
        assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "metrics.jsonl"]
        assert written.is_dir()
        other.communicate("\n")
    pretrain(run, out)
    assert (out / "model").is_dir()


def test_a_file_system_without_locks_is_no_hindrance(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    pretrain(run, tmp_path / "out")
    assert (tmp_path / "out" / "model").is_dir()


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 15), (2, 27), (3, 39), (9, 39)])
def test_a_log_goes_on_after_the_step_that_is_resumed(tmp_path, step, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text := '{"step": 1}\n\0\0\n{"step": 2}\n{"step": 3}\n{"st')
    with claimed(tmp_path, True) as file:
        log = Log(tmp_path, start=step, total=9, batch_size=1, file=file)
        log.step(9, {})
        log.close()
    assert path.read_text()[:kept] == text[:kept]
    (line,) = path.read_text()[kept:].splitlines()
    assert json.loads(line)["step"] == 9


def test_without_tensorboard_nothing_is_begun(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = replace(run, train=replace(run.train, tensorboard=True))
    with pytest.raises(UserError, match=r"pip install 'multiway\[track\]'"):
        pretrain(run, tmp_path / "out" / "1-words")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("seconds", "said"), [(59, "0:00:59 left"), (90_061, "1 day, 1:01:01 left")])
def test_the_time_left_counts_days(tmp_path, capsys, monkeypatch, seconds, said):
    with claimed(tmp_path, True) as file:
        log = Log(tmp_path, start=0, total=2, batch_size=1, file=file)
        log.spoke, log.began = -1e9, 0.0
        monkeypatch.setattr(time, "monotonic", lambda: seconds + 0.5)
        log.step(1, {})
    assert said in capsys.readouterr().out


def test_a_fine_tuning_goes_on_with_the_vocabulary_of_its_model(run, tmp_path):
    pretrain(run, tmp_path / "base")
    train = TrainConfig(steps=1, batch_size=4, device="cpu", lora=LoRAConfig(rank=2))
    plan = finetune.plan("retrieval", tmp_path / "base" / "model", run.data, train=train)
    out = tmp_path / "out"
    finetune.finetune("retrieval", plan, out)
    finetune.finetune("retrieval", plan, out)  # nothing is left to do
    again = finetune.finetune("retrieval", replace(plan, train=replace(train, steps=2)), out)
    assert again.progress.step == 2
    before = vocabulary(tmp_path / "base" / "model")
    assert vocabulary(out / "model") == before
    say(tmp_path, "blue things now")
    for start in ("model", "model-adapter"):  # the adapter's folder holds no vocabulary of its own
        onward = replace(run, init=Init(checkpoint=str(out / start)))
        tokenizer = build_system(onward).tokenizer
        assert tokenizer.encode("a red thing") == multiway.load(out / "model").tokenizer.encode("a red thing")
        assert tokenizer.config == run.system.tokenizer
