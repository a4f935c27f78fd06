"""`multiway evaluate` as one decides by it: intervals, slices, two models, the sheet."""

from __future__ import annotations

import json

import multiway


def test_slices_intervals_and_sheet(cli, model_folder, pictures, tmp_path):
    rows = ["image,caption,light"]
    for colour in ("red", "green", "blue", "black"):
        rows.append(f"{pictures / colour}.png,a {colour} picture,{'no' if colour == 'black' else 'yes'}")
    (tmp_path / "gold.csv").write_text("\n".join(rows) + "\n")
    sheet = tmp_path / "sheet.html"
    given = ("evaluate", "retrieval", "--model", model_folder, "--data", tmp_path / "gold.csv")
    code, out, err = cli(*given, "--slice", "light", "--sheet", sheet, "--json", "--card")
    assert code == 0, err
    found = json.loads(out)
    low, high = found["intervals"]["tr_r1"]
    assert low <= found["itm"]["tr_r1"] <= high
    assert [(row["value"], row["n"]) for row in found["slices"]["light"]] == [("yes", 3), ("no", 1)]
    assert "data:image/png;base64," in sheet.read_text()
    assert "- 4 samples: tr_r1 " in (model_folder / "README.md").read_text()
    code, _, err = cli(*given, "--slice", "dark")
    assert code == 2
    assert "no column 'dark'" in err
    assert "light" in err


def test_rows_that_indexing_lost_are_counted(cli, model_folder, pictures, tmp_path):
    rows = ["image,caption", *(f"{pictures / c}.png,a {c} picture" for c in ("red", "green", "blue"))]
    (tmp_path / "gold.csv").write_text("\n".join([*rows, f"{pictures}/black.png,", ",nothing"]) + "\n")
    given = ("evaluate", "retrieval", "--model", model_folder, "--data", tmp_path / "gold.csv")
    code, out, err = cli(*given, "--json")
    assert code == 0, err
    assert json.loads(out)["skipped"] == {"empty_caption": 1, "no_image": 1}
    assert "skipped no_image 1, empty_caption 1" in " ".join(cli(*given)[1].split())


def test_two_models_sample_by_sample(cli, model_folder, pictures, tmp_path):
    model = multiway.load(model_folder)
    model.itm_head.weight.data.neg_()
    multiway.save(model, tmp_path / "other")
    data = ("--data", pictures, "--batch-size", 4)
    code, out, err = cli(
        "evaluate", "retrieval", "--compare", model_folder, tmp_path / "other", *data, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["n"] == 6
    figure = found["figures"]["tr_r1"]
    assert figure["difference"] == figure["second"] - figure["first"]
    assert 0 <= figure["p"] <= 1
    code, out, err = cli("evaluate", "retrieval", "--compare", model_folder, model_folder, *data)
    assert code == 0, err
    assert "no difference that these data can show" in out


def test_flags_that_do_not_go_together(cli, model_folder, pictures):
    for flags, said in (
        ((), "--model MODEL, or --compare"),
        (("--model", "a", "--compare", "a", "b"), "--model MODEL, or --compare"),
        (("--compare", "a", "b", "--sheet", "x.html"), "for one model"),
        (("--model", "a", "--sheet", "x.txt"), "name it x.html"),
    ):
        code, _, err = cli("evaluate", "retrieval", "--data", pictures, *flags)
        assert code == 2
        assert said in err
