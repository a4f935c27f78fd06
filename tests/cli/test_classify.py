"""What `multiway classify` says of a model that can't do without a text."""

from types import SimpleNamespace

import pytest
import torch

from multiway.batch import Batch
from multiway.cli import classify, model
from multiway.cli.classify import _names
from multiway.data.sentences import Sentences
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError


class Judge:
    """A model with these classes, which reads so of a batch."""

    def __init__(self, labels, read):
        self.config, self.read = SimpleNamespace(labels=labels), read

    def prepare(self, picture):
        return torch.zeros(1, 3, 4, 4)

    def predict(self, batch):
        return self.read(batch)


def small(batch):
    raise UserError("a picture of 4 by 4 pixels has no patch")


@pytest.mark.parametrize(
    ("labels", "read", "sentence"),
    [
        (PicturePairs.labels, Batch.text, "Judge judges a text .*`multiway evaluate nlvr2`"),
        (
            Sentences.labels,
            Batch.text,
            "Judge judges a text .*`multiway evaluate entailment`",
        ),
        (("cat", "dog"), small, "a picture of 4 by 4 pixels has no patch"),
    ],
)
def test_only_a_missing_text_is_told_as_one(monkeypatch, labels, read, sentence):
    monkeypatch.setattr(model, "load_model", lambda args: Judge(tuple(labels), read))
    with pytest.raises(UserError, match=f"^{sentence}"):
        classify.classify(["a.jpg", "--model", "m"])


def test_a_long_list_of_classes_is_no_name_of_a_file(tmp_path):
    names = [f"class {i}" for i in range(90)]
    assert _names(",".join(names)) == names
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert _names(str(tmp_path / "classes.txt")) == names
