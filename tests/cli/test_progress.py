"""The bar that shows how far a stage is, where there is no terminal."""

from multiway.cli import model


def test_a_stage_that_begins_again_has_no_negative_rate(monkeypatch, capsys):
    monkeypatch.setattr(model, "QUIET_SECONDS", -1.0)
    with model.progress_bar() as show:
        for done in (1, 300, 1, 294):
            show("pictures", done, 300)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["pictures 300 of 300", "pictures 294 of 300"]
    assert "-" not in "".join(lines)
